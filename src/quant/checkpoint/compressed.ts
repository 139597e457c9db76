import { FormatError, UnsupportedError } from '../../core/errors.ts';
import type { SourceTensor } from '../../core/weights.ts';
import { CODE_VALUES } from '../codes.ts';
import { ACTIVATION_SCALES, addScaled } from './fp8.ts';
import { affine, bytesOf, checkTensor, floatsOf, integer, type Replaced, record, wordsOf } from './parts.ts';

type Settings = Readonly<Record<string, unknown>>;

/**
 * compressed-tensors: packed integers (`weight_packed`), E4M3 and signed bytes under `weight_scale`, and NVFP4. Each group of
 * the settings names the modules it is for.
 */
export async function readCompressed(r: Replaced, settings: Settings): Promise<void> {
  const groups = Object.values(record(settings['config_groups'])).map((g) => record(record(g)['weights']));
  const sparse = record(settings['sparsity_config'])['format'];
  if (sparse !== undefined && sparse !== 'dense') {
    throw new UnsupportedError(
      `quantization_config.sparsity_config.format: expected dense, got ${JSON.stringify(sparse)}`,
      {
        feature: 'sparse checkpoints',
      },
    );
  }
  for (const module of r.modules('.weight_packed')) {
    if (r.source.get(`${module}.weight_packed`)?.type.name === 'U8') await addFp4(r, module);
    else await addPacked(r, module, groups);
  }
  for (const module of r.modules('.weight_scale')) {
    const weight = r.source.get(`${module}.weight`);
    if (weight?.type.name === 'F8_E4M3') addScaledCodes(r, module, weight, groups, 'FP8', 'e4m3');
    else if (weight?.type.name === 'I8') await addIntegers(r, module, weight, groups);
  }
  r.hide(ACTIVATION_SCALES);
}

/**
 * The settings that fit a module's tensors. Groups name their modules by class or regular expression, but shapes tell as
 * much, and expressions out of a file can be made to run for ever.
 */
function fitting(groups: readonly Settings[], fits: (weights: Settings) => boolean): Settings {
  return groups.find(fits) ?? groups[0] ?? {};
}

/** The number of a scale for row `o` and group `g`, where one row or column of scales stands for all. */
function gridReader(t: SourceTensor, values: Float32Array): (o: number, g: number) => number {
  const [down = 1, across = 1] = t.shape.length === 1 ? [t.shape[0], 1] : t.shape;
  return (o, g) => values[(down === 1 ? 0 : o) * across + (across === 1 ? 0 : g)]!;
}

function groupFits(scale: SourceTensor, columns: number, settings: Settings): boolean {
  const asked = integer(settings, 'group_size', -1);
  const across = scale.shape.length > 1 ? scale.shape[1] : 1;
  return Math.ceil(columns / (asked > 0 ? asked : columns)) === across;
}

function groupsOf(scale: SourceTensor, out: number, columns: number, asked: number): number {
  const [down = 1, across = 1] = scale.shape.length === 1 ? [scale.shape[0], 1] : scale.shape;
  const group = across === 1 ? columns : asked > 0 ? asked : columns / across;
  if ((down === out || down === 1) && Math.ceil(columns / group) === across) return group;
  throw new FormatError(
    `tensor "${scale.name}": expected scales of groups of ${asked} columns of [${out},${columns}], got [${scale.shape}]`,
  );
}

/** Words of codes along the rows, as many as fit whole into 32 bits, with half of the range added. */
async function addPacked(r: Replaced, module: string, all: readonly Settings[]): Promise<void> {
  const packed = r.take(`${module}.weight_packed`);
  const scale = r.take(`${module}.weight_scale`);
  const zeros = r.optional(`${module}.weight_zero_point`);
  const order = r.optional(`${module}.weight_g_idx`);
  const [out = 0, columns = 0] = await floatsOf(r.take(`${module}.weight_shape`));
  const settings = fitting(all, (s) => {
    const perWord = Math.floor(32 / integer(s, 'num_bits', 4));
    return Math.ceil(columns / perWord) === packed.shape[1] && groupFits(scale, columns, s);
  });
  const bits = integer(settings, 'num_bits', 4);
  if (bits < 1 || bits > 8) {
    throw new UnsupportedError(`${module}: expected codes of up to 8 bits, got ${bits}`, {
      feature: `${bits}-bit codes`,
    });
  }
  const perWord = Math.floor(32 / bits);
  const words = Math.ceil(columns / perWord);
  checkTensor(packed, 'I32', [out, words]);
  const group = groupsOf(scale, out, columns, integer(settings, 'group_size', -1));
  const across = Math.ceil(columns / group);
  if (zeros) checkTensor(zeros, 'I32', [Math.ceil(out / perWord), across]);
  const index = order && (await columnGroups(order, columns, group, across));
  const half = 2 ** (bits - 1);
  const mask = 2 ** bits - 1;
  r.add({
    name: `${module}.weight`,
    order: packed.order,
    shape: [out, columns],
    grouping: affine(`INT${bits}`, bits, columns, index ? across : group, index),
    index,
    async prepare() {
      const scaleOf = gridReader(scale, await floatsOf(scale));
      const zeroWords = zeros && (await wordsOf(zeros));
      return async (first, rows, row, done) => {
        const codes = new Int32Array((await bytesOf(packed, first, rows)).buffer);
        for (let o = first; o < first + rows; o++) {
          const word = Math.floor(o / perWord) * across;
          for (let g = 0; g < across; g++) {
            const zero = zeroWords ? (zeroWords[word + g]! >>> (bits * (o % perWord))) & mask : half;
            row.scales[g] = scaleOf(o, g);
            row.biases[g] = -zero * row.scales[g]!;
          }
          const at = (o - first) * words;
          for (let k = 0; k < columns; k++) {
            row.codes[k] = (codes[at + Math.floor(k / perWord)]! >>> (bits * (k % perWord))) & mask;
          }
          done();
        }
      };
    },
  });
}

async function columnGroups(
  order: SourceTensor,
  columns: number,
  group: number,
  groups: number,
): Promise<Uint16Array | undefined> {
  checkTensor(order, 'I32', [columns]);
  const numbers = await wordsOf(order);
  if (numbers.every((g, k) => g === Math.floor(k / group) || g === -1)) return undefined;
  for (const g of numbers) {
    if (g < 0 || g >= groups)
      throw new FormatError(`tensor "${order.name}": expected groups below ${groups}, got ${g}`);
  }
  return Uint16Array.from(numbers);
}

function addScaledCodes(
  r: Replaced,
  module: string,
  weight: SourceTensor,
  all: readonly Settings[],
  label: string,
  code: 'e4m3' | 'i8',
): void {
  const [out = 0, columns = 1] = weight.shape.slice(-2);
  r.take(weight.name);
  const scale = r.take(`${module}.weight_scale`);
  const count = scale.shape.reduce((n, d) => n * d, 1);
  const blocks = all.map((s) => blockOf(s, columns));
  const block = blocks.find(([high, wide]) => Math.ceil(out / high) * Math.ceil(columns / wide) === count);
  addScaled(r, weight, scale, { label, code, block: block ?? [1, columns] });
}

function blockOf(settings: Settings, columns: number): readonly [rows: number, columns: number] {
  const given = settings['block_structure'];
  if (Array.isArray(given) && given.length === 2 && given.every((n) => Number.isSafeInteger(n) && n > 0)) {
    return [given[0] as number, given[1] as number];
  }
  const group = integer(settings, 'group_size', -1);
  return [1, group > 0 ? group : columns];
}

/** Signed bytes, with zeros of their own or without. */
async function addIntegers(r: Replaced, module: string, weight: SourceTensor, all: readonly Settings[]): Promise<void> {
  const zeros = r.optional(`${module}.weight_zero_point`);
  if (!zeros || (await floatsOf(zeros)).every((z) => z === 0)) {
    return addScaledCodes(r, module, weight, all, 'INT8', 'i8');
  }
  const [out = 0, columns = 0] = weight.shape;
  r.take(weight.name);
  const scale = r.take(`${module}.weight_scale`);
  const settings = fitting(all, (s) => groupFits(scale, columns, s));
  const group = groupsOf(scale, out, columns, integer(settings, 'group_size', -1));
  const across = Math.ceil(columns / group);
  r.add({
    name: weight.name,
    order: weight.order,
    shape: [out, columns],
    grouping: { label: 'INT8', code: 'i8', group, bias: true, indexed: false },
    async prepare() {
      const scaleOf = gridReader(scale, await floatsOf(scale));
      const zeroOf = gridReader(zeros, await floatsOf(zeros));
      return async (first, rows, row, done) => {
        const codes = await bytesOf(weight, first, rows);
        for (let o = first; o < first + rows; o++) {
          for (let g = 0; g < across; g++) {
            row.scales[g] = scaleOf(o, g);
            row.biases[g] = -zeroOf(o, g) * row.scales[g]!;
          }
          row.codes.set(codes.subarray((o - first) * columns, (o - first + 1) * columns));
          done();
        }
      };
    },
  });
}

const FP4_GROUP = 16;

/** NVFP4: E2M1 codes, the first in the low half, under E4M3 scales of 16 columns, which are divided by one number. */
async function addFp4(r: Replaced, module: string): Promise<void> {
  const packed = r.take(`${module}.weight_packed`);
  const scale = r.take(`${module}.weight_scale`);
  const [out = 0, bytes = 0] = packed.shape;
  const columns = 2 * bytes;
  const across = columns / FP4_GROUP;
  checkTensor(scale, 'F8_E4M3', [out, across]);
  const [divisor = 1] = await floatsOf(r.take(`${module}.weight_global_scale`));
  r.add({
    name: `${module}.weight`,
    order: packed.order,
    shape: [out, columns],
    grouping: { label: 'NVFP4', code: 'e2m1', group: FP4_GROUP, bias: false, indexed: false },
    prepare: async () => async (first, rows, row, done) => {
      const [codes, scales] = await Promise.all([bytesOf(packed, first, rows), bytesOf(scale, first, rows)]);
      for (let i = 0; i < rows; i++) {
        for (let g = 0; g < across; g++) row.scales[g] = CODE_VALUES.e4m3[scales[i * across + g]!]! / divisor;
        for (let k = 0; k < bytes; k++) {
          row.codes[2 * k] = codes[i * bytes + k]! & 15;
          row.codes[2 * k + 1] = codes[i * bytes + k]! >> 4;
        }
        done();
      }
    },
  });
}
