import { FormatError, UnsupportedError } from '../../core/errors.ts';
import type { SourceTensor } from '../../core/weights.ts';
import { affine, checkTensor, floatsOf, integer, type ReadRows, type Replaced, wordsOf } from './parts.ts';

/**
 * GPTQ: `scale · (q − zero)`. `qweight` `[in · bits / 32, out]` holds the codes of a column of outputs as one bit stream down
 * its words; `qzeros` `[groups, out · bits / 32]` the zeros of a group as one along its words; `scales` `[groups, out]`;
 * `g_idx` `[in]` the group of each input, in any order where columns were quantized by importance. Version 1 stores zeros
 * less one.
 */
export async function readGptq(r: Replaced, settings: Readonly<Record<string, unknown>>): Promise<void> {
  const format = settings['checkpoint_format'] ?? settings['format'] ?? 'gptq';
  if (format !== 'gptq' && format !== 'gptq_v2') {
    throw new UnsupportedError(
      `quantization_config.checkpoint_format: expected gptq or gptq_v2, got ${JSON.stringify(format)}`,
      { feature: `GPTQ layout ${String(format)}` },
    );
  }
  for (const module of r.modules('.qweight')) {
    await addModule(r, module, settings, format === 'gptq' ? 1 : 0);
  }
}

async function addModule(
  r: Replaced,
  module: string,
  settings: Readonly<Record<string, unknown>>,
  less: number,
): Promise<void> {
  const weight = r.take(`${module}.qweight`);
  const scales = r.take(`${module}.scales`);
  const zeros = r.optional(`${module}.qzeros`);
  const order = r.optional(`${module}.g_idx`);
  const [groups = 0, out = 0] = scales.shape;
  const [words = 0] = weight.shape;
  // Single modules may have another width than the settings say.
  const bits = zeros ? (32 * (zeros.shape[1] ?? 0)) / out : integer(settings, 'bits', 4);
  const columns = (32 * words) / bits;
  if (![2, 3, 4, 8].includes(bits) || !Number.isInteger(columns) || groups === 0) {
    throw new FormatError(
      `${module}: expected codes of 2, 3, 4 or 8 bits, got ${bits} by qweight [${weight.shape}] and scales [${scales.shape}]`,
    );
  }
  checkTensor(weight, 'I32', [(columns * bits) / 32, out]);
  if (zeros) checkTensor(zeros, 'I32', [groups, (out * bits) / 32]);
  if (order) checkTensor(order, 'I32', [columns]);
  const group = groupSize(module, columns, groups, integer(settings, 'group_size', -1));
  // Settings are not always right about whether columns are in order.
  const index = order && indexOf(module, await wordsOf(order), groups, group);
  r.add({
    name: `${module}.weight`,
    order: weight.order,
    shape: [out, columns],
    grouping: affine(`GPTQ${bits}`, bits, columns, index ? groups : group, index),
    index,
    prepare: () => rowReader({ weight, scales, zeros, bits, columns, out, groups, less }),
  });
}

function groupSize(module: string, columns: number, groups: number, asked: number): number {
  for (const size of [asked > 0 ? asked : columns, columns / groups]) {
    if (Number.isInteger(size) && Math.ceil(columns / size) === groups) return size;
  }
  throw new FormatError(`${module}: expected groups of ${asked} of ${columns} columns, got ${groups} groups of scales`);
}

/** The group of each column, unless columns of a group are neighbours anyway. */
function indexOf(module: string, order: Int32Array, groups: number, group: number): Uint16Array | undefined {
  for (const g of order) {
    if (g < 0 || g >= groups) throw new FormatError(`${module}.g_idx: expected groups below ${groups}, got ${g}`);
  }
  return order.every((g, k) => g === Math.floor(k / group)) ? undefined : Uint16Array.from(order);
}

interface Module {
  readonly weight: SourceTensor;
  readonly scales: SourceTensor;
  readonly zeros: SourceTensor | undefined;
  readonly bits: number;
  readonly columns: number;
  readonly out: number;
  readonly groups: number;
  /** What stored zeros are short of. */
  readonly less: number;
}

async function rowReader(m: Module): Promise<ReadRows> {
  const { bits, columns, out, groups } = m;
  const words = await wordsOf(m.weight);
  const scales = await floatsOf(m.scales);
  const zeros = m.zeros && (await wordsOf(m.zeros));
  const mask = 2 ** bits - 1;
  /** Code `i` of the stream whose words begin at `at` and are `stride` apart. */
  const code = (stream: Int32Array, at: number, stride: number, i: number): number => {
    const bit = i * bits;
    const word = at + (bit >>> 5) * stride;
    const shift = bit & 31;
    const low = stream[word]! >>> shift;
    return (shift + bits > 32 ? low | (stream[word + stride]! << (32 - shift)) : low) & mask;
  };
  return (first, rows, row, done) => {
    for (let o = first; o < first + rows; o++) {
      for (let g = 0; g < groups; g++) {
        const zero = zeros ? (code(zeros, (g * out * bits) / 32, 1, o) + m.less) & mask : 2 ** (bits - 1);
        row.scales[g] = scales[g * out + o]!;
        row.biases[g] = -zero * row.scales[g]!;
      }
      for (let k = 0; k < columns; k++) row.codes[k] = code(words, o, out, k);
      done();
    }
  };
}
