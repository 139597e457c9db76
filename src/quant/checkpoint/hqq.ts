import { storageType } from '../../core/dtype.ts';
import { FormatError, UnsupportedError } from '../../core/errors.ts';
import type { Grouping } from '../../core/grouped.ts';
import type { SourceTensor } from '../../core/weights.ts';
import { affine, bytesOf, floatsOf, integer, type Replaced, record } from './parts.ts';

type Settings = Readonly<Record<string, unknown>>;

/** What a module stores beside its codes, as tensors of one number or of bytes. */
const BESIDE =
  /\.(W_q|scale|zero|nbits|group_size|shape|axis|packing|view_as_float|channel_wise|round_zeros|optimize|unpack_view_dtype|stores_quant_config|compute_dtype|quant_scale|quant_zero|offload_meta|encoded_state_dict)$/;

/**
 * HQQ: `(q − zero) · scale`. The matrix, row after row, is cut into groups, which are the rows (axis 1) or the columns (axis
 * 0) of a table; the codes of the table are packed in as many runs of its rows as a byte holds codes, the first run in the
 * highest bits.
 */
export async function readHqq(r: Replaced, settings: Settings): Promise<void> {
  const quant = record(settings['quant_config']);
  const given = { ...settings, ...quant, ...record(quant['weight_quant_params']) };
  for (const module of r.modules('.W_q')) await addModule(r, module, given);
}

async function addModule(r: Replaced, module: string, settings: Settings): Promise<void> {
  const all = [...r.source.names()].filter((n) => n.startsWith(`${module}.`) && BESIDE.test(n));
  for (const name of all) r.take(name);
  const number = async (key: string, fallback: number): Promise<number> => {
    const t = r.source.get(`${module}.${key}`);
    return t ? ((await floatsOf(t))[0] ?? fallback) : integer(settings, key, fallback);
  };
  const weight = r.take(`${module}.W_q`);
  const [scale, zero] = [r.take(`${module}.scale`), r.take(`${module}.zero`)];
  const bits = await number('nbits', 4);
  const axis = await number('axis', 1);
  const shape = await floatsOf(r.take(`${module}.shape`));
  const [out = 0, columns = 0] = shape;
  const elements = out * columns;
  const asked = await number('group_size', 64);
  const group = asked > 0 ? asked : axis === 1 ? columns : out;
  const table = axis === 1 ? { rows: elements / group, width: group } : { rows: group, width: elements / group };
  const groups = elements / group;
  const count = (t: SourceTensor) => t.shape.reduce((n, d) => n * d, 1);
  if (![1, 2, 4, 8].includes(bits)) {
    throw new UnsupportedError(`${module}: expected HQQ codes of 1, 2, 4 or 8 bits, got ${bits}`, {
      feature: `HQQ of ${bits} bits`,
    });
  }
  if (shape.length !== 2 || !Number.isInteger(groups) || count(scale) !== groups || count(zero) !== groups) {
    throw new FormatError(
      `${module}: expected scales and zeros of groups of ${group} of [${shape}], got [${scale.shape}] and [${zero.shape}]`,
    );
  }
  addTable(r, `${module}.weight`, [out, columns], group, {
    ...table,
    ...{ bits, axis, columns, packed: weight, scale, zero },
  });
}

/**
 * Registers a matrix of codes in a table: as they are where groups are runs of columns, else as floats. `how` adds to what is
 * known of the codes.
 */
export function addTable(
  r: Replaced,
  name: string,
  shape: readonly [number, number],
  group: number,
  t: Table,
  how: Pick<Grouping, 'activationBits'> = {},
): void {
  const [, columns] = shape;
  if (t.axis === 1 && columns % group === 0) {
    r.add({
      ...{ name, order: t.packed.order, shape },
      grouping: { ...affine(`HQQ${t.bits}`, t.bits, columns, group), ...how },
      async prepare() {
        const at = await reader(t);
        return (first, rows, row, done) => {
          for (let o = first; o < first + rows; o++) {
            for (let g = 0; g < row.scales.length; g++) {
              const i = (o * columns) / group + g;
              row.scales[g] = at.scales[i]!;
              row.biases[g] = -at.zeros[i]! * at.scales[i]!;
            }
            for (let k = 0; k < columns; k++) row.codes[k] = at.code(o * columns + k);
            done();
          }
        };
      },
    });
    return;
  }
  r.put(asFloats(name, t, shape));
}

/** Groups are the rows (axis 1) or the columns (axis 0) of `rows` × `width` codes. */
export interface Table {
  readonly rows: number;
  readonly width: number;
  readonly bits: number;
  readonly axis: number;
  readonly columns: number;
  readonly packed: SourceTensor;
  readonly scale: SourceTensor;
  readonly zero: SourceTensor;
}

async function reader(t: Table) {
  const bytes = await bytesOf(t.packed);
  const [scales, zeros] = [await floatsOf(t.scale), await floatsOf(t.zero)];
  const run = (t.rows * t.bits) / 8;
  const mask = 2 ** t.bits - 1;
  if (bytes.length !== Math.ceil(run) * t.width || !Number.isInteger(run)) {
    throw new FormatError(
      `tensor "${t.packed.name}": expected ${run * t.width} bytes of codes, got ${bytes.length}; the quantization settings and the weights disagree`,
    );
  }
  return {
    scales,
    zeros,
    /** Code of an element, counted row by row. */
    code(element: number): number {
      const row = Math.floor(element / t.width);
      const byte = bytes[(row % run) * t.width + (element % t.width)]!;
      return (byte >> (8 - t.bits * (Math.floor(row / run) + 1))) & mask;
    },
  };
}

/** Groups that run across rows have scales for every element of a row: such matrices become floats. */
function asFloats(name: string, t: Table, shape: readonly [number, number]): SourceTensor {
  const [out, columns] = shape;
  let reading: ReturnType<typeof reader> | undefined;
  return {
    ...{ name, order: t.packed.order, shape, type: storageType('F32') },
    async readRows(first, rows, target) {
      reading ??= reader(t);
      const { scales, zeros, code } = await reading;
      const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
      for (let i = 0; i < rows * columns; i++) {
        const element = first * columns + i;
        const group = t.axis === 1 ? Math.floor(element / t.width) : element % t.width;
        view.setFloat32(4 * i, Math.fround(code(element) - zeros[group]!) * scales[group]!, true);
      }
      if (first + rows === out) reading = undefined;
    },
  };
}
