/** Matrices in the formats of quantization at load as the tensors of a UQFF module. */
import type { RawSection } from '../../core/backend.ts';
import { UnsupportedError, WeightError } from '../../core/errors.ts';
import { groupedRow } from '../../core/grouped.ts';
import { eachChunk } from '../../core/io/rowChunks.ts';
import { formatNumber, isUqffBlock, type UqffFormat } from '../../core/io/uqff.ts';
import { heldTensor, numbers, type PutBytes, type StreamedTensor, type TensorStream } from '../../core/io/uqffWrite.ts';
import { type Shape, sizeOf } from '../../core/tensor.ts';
import { AFQ_HEADER } from '../afq.ts';

/** Bytes of a matrix in memory at a time; as floats they take up to 16 times as much. */
const CHUNK_BYTES = 2 << 20;

export interface EncodedModule extends TensorStream {
  readonly name: string;
  readonly shape: Shape;
  /** What reports call the format. */
  readonly stored: string;
}

/** Formats that several matrices of experts can share one module in. */
export function canStack({ type }: RawSection): boolean {
  return type.grouping === undefined && type.name !== 'F8Q8';
}

/** A matrix on its way to a file. */
interface Matrix {
  readonly name: string;
  readonly shape: Shape;
  readonly rows: number;
  readonly columns: number;
  readonly section: RawSection;
  /** Bytes of a row as `section` gives it. */
  readonly stride: number;
}

interface Parts {
  readonly format: UqffFormat;
  readonly stored: string;
  /** Data by what follows `name.weight.`, and numbers. */
  readonly data: Readonly<Record<string, Omit<StreamedTensor, 'name'>>>;
  readonly bytes?: Readonly<Record<string, number>>;
  readonly words?: Readonly<Record<string, number>>;
  /** States the shape. */
  readonly shaped?: true;
  stream(put: (key: string, offset: number, bytes: Uint8Array) => Promise<void>): Promise<void>;
}

/**
 * The tensors of a module. `section` holds its rows in the format of memory.
 * @throws UnsupportedError for formats that UQFF has no place for.
 */
export function encodeModule(name: string, shape: Shape, section: RawSection): EncodedModule {
  const columns = shape.at(-1) as number;
  const rows = sizeOf(shape) / columns;
  const stride = (columns / section.type.blockSize) * section.type.blockBytes;
  const parts = partsOf({ name, shape, rows, columns, section, stride });
  const key = (rest: string) => `${name}.weight${rest && `.${rest}`}`;
  const number = (rest: string, type: 'U8' | 'U32', value: number) =>
    heldTensor({ name: key(rest), type, shape: [] }, numbers(type, [value]));
  const held = [
    number('format', 'U8', formatNumber(parts.format)),
    ...Object.entries(parts.bytes ?? {}).map(([rest, value]) => number(rest, 'U8', value)),
    ...Object.entries(parts.words ?? {}).map(([rest, value]) => number(rest, 'U32', value)),
    ...(parts.shaped
      ? [heldTensor({ name: key('shape'), type: 'U32', shape: [shape.length] }, numbers('U32', shape))]
      : []),
  ];
  const data = Object.entries(parts.data).map(([rest, tensor]) => ({ ...tensor, name: key(rest) }));
  return {
    ...{ name, shape, stored: parts.stored },
    tensors: [...data, ...held.flatMap((h) => h.tensors)],
    async stream(put: PutBytes) {
      for (const h of held) await h.stream(put);
      await parts.stream((rest, offset, bytes) => put(key(rest), offset, bytes));
    },
  };
}

function partsOf(m: Matrix): Parts {
  const { type } = m.section;
  if (type.grouping?.label.startsWith('HQQ')) return hqq(m);
  if (type.grouping?.label === 'F8E4M3') return fp8(m);
  if (type.name.startsWith('AFQ')) return afq(m);
  if (type.name === 'MXFP4') return mxfp4(m);
  if (type.name === 'F8Q8')
    return { ...blocks(m, 'f8q8', 'f8q8'), words: { num_blocks: (m.rows * m.columns) / type.blockSize } };
  if (type.blockSize > 1 && isUqffBlock(type)) {
    return { ...blocks(m, 'gguf', type.name.toLowerCase().replace('_k', 'k')), words: { dtype: type.ggml as number } };
  }
  if (['F32', 'F16', 'BF16'].includes(type.name)) {
    return {
      format: 'unquant',
      stored: 'unquant',
      data: { '': { type: type.name, shape: m.shape } },
      stream: whole(m),
    };
  }
  const label = type.grouping?.label ?? type.name;
  throw new UnsupportedError(
    `weight "${m.name}": expected a type of UQFF files, got ${label}; quantize it too, to a type that has a place there`,
    { feature: `${label} in UQFF files` },
  );
}

function chunks(m: Matrix, body: Parameters<typeof eachChunk>[3]): Promise<void> {
  return eachChunk(m.section, m.stride, CHUNK_BYTES, body);
}

/** The bytes of memory are those of the file. */
function whole(m: Matrix): Parts['stream'] {
  return (put) => chunks(m, (first, _rows, bytes) => put('', first * m.stride, bytes));
}

function blocks(m: Matrix, format: UqffFormat, stored: string): Parts {
  return {
    ...{ format, stored, shaped: true },
    data: { '': { type: 'U8', shape: [m.rows * m.stride] } },
    stream: whole(m),
  };
}

/** Blocks of scale, bias and codes become three tensors. */
function afq(m: Matrix): Parts {
  const { type } = m.section;
  const group = type.blockSize;
  const codes = type.blockBytes - AFQ_HEADER;
  const bits = (8 * codes) / group;
  const perRow = m.columns / group;
  const lead = m.shape.slice(0, -1);
  const scales = { type: 'F32', shape: [...lead, perRow] } as const;
  return {
    ...{ format: 'afq', stored: `afq${bits}`, bytes: { bits, group_size: group } },
    data: { '': { type: 'U32', shape: [...lead, (m.columns * bits) / 32] }, scales, biases: scales },
    stream: (put) =>
      chunks(m, async (first, rows, bytes) => {
        const count = rows * perRow;
        const [words, scale, bias] = [codes, 4, 4].map((size) => new Uint8Array(count * size)) as [
          Uint8Array,
          Uint8Array,
          Uint8Array,
        ];
        for (let b = 0; b < count; b++) {
          const at = b * type.blockBytes;
          scale.set(bytes.subarray(at, at + 4), 4 * b);
          bias.set(bytes.subarray(at + 4, at + 8), 4 * b);
          words.set(bytes.subarray(at + AFQ_HEADER, at + type.blockBytes), codes * b);
        }
        await put('', first * perRow * codes, words);
        await put('scales', first * perRow * 4, scale);
        await put('biases', first * perRow * 4, bias);
      }),
  };
}

/** Blocks of a scale and codes of elements 16 apart become codes of neighbours, and scales. */
function mxfp4(m: Matrix): Parts {
  const { blockSize, blockBytes } = m.section.type;
  const half = blockSize / 2;
  const perRow = m.columns / blockSize;
  const lead = m.shape.slice(0, -1);
  return {
    ...{ format: 'mxfp4', stored: 'mxfp4' },
    data: { '': { type: 'U8', shape: [...lead, m.columns / 2] }, scales: { type: 'U8', shape: [...lead, perRow] } },
    stream: (put) =>
      chunks(m, async (first, rows, bytes) => {
        const count = rows * perRow;
        const codes = new Uint8Array(count * half);
        const scales = new Uint8Array(count);
        for (let b = 0; b < count; b++) {
          const at = b * blockBytes;
          scales[b] = bytes[at]!;
          for (let k = 0; k < blockSize; k++) {
            const code = (bytes[at + 1 + (k % half)]! >> (k < half ? 0 : 4)) & 15;
            codes[b * half + (k >> 1)]! |= code << (4 * (k & 1));
          }
        }
        await put('', first * perRow * half, codes);
        await put('scales', first * perRow, scales);
      }),
  };
}

/** The number that files have for F8E4M3, the type of the values. */
const F8E4M3 = 9;

/** Every row repeats the scale of the matrix. */
function fp8(m: Matrix): Parts {
  const layout = groupedRow(m.section.type.grouping!, m.columns);
  const scale = { type: 'F32', shape: [] } as const;
  return {
    ...{ format: 'fp8', stored: 'fp8', words: { dtype: F8E4M3 } },
    data: {
      '': { type: 'F8_E4M3', shape: m.shape },
      ...{ dequant_w_scale: scale, dequant_x_scale: scale, quant_scale: scale },
    },
    async stream(put) {
      let common: number | undefined;
      await chunks(m, async (first, rows, bytes) => {
        const view = new DataView(bytes.buffer);
        const codes = new Uint8Array(rows * m.columns);
        for (let row = 0; row < rows; row++) {
          const at = row * m.stride;
          const own = view.getFloat32(at, true);
          common ??= own;
          if (own !== common) {
            throw new WeightError(
              `weight "${m.name}": expected one scale, got ${common} and ${own} in row ${first + row}`,
            );
          }
          codes.set(bytes.subarray(at + layout.codes, at + layout.codes + m.columns), row * m.columns);
        }
        await put('', first * m.columns, codes);
      });
      const floats = new Float32Array([common ?? 1, 1 / (common ?? 1)]);
      const [forward, back] = [0, 1].map((i) => new Uint8Array(floats.buffer, 4 * i, 4)) as [Uint8Array, Uint8Array];
      await put('dequant_w_scale', 0, forward);
      await put('dequant_x_scale', 0, forward);
      await put('quant_scale', 0, back);
    },
  };
}

/** Steps that `quantize` takes at most. */
const HQQ_STEPS = 20;

/**
 * Groups are runs of a row: the rows of a table (axis 1), of which two with the codes of 4 bits share bytes, one half of the
 * table in the high and the other in the low halves. A table with an odd number of rows keeps one code a byte.
 */
function hqq(m: Matrix): Parts {
  const grouping = m.section.type.grouping!;
  const { group } = grouping;
  const layout = groupedRow(grouping, m.columns);
  const groups = (m.rows * m.columns) / group;
  const bits = grouping.code === 'u4' && groups % 2 === 0 ? 4 : 8;
  const tableRows = (groups * bits) / 8;
  const numbersOf = { type: 'F32', shape: [groups, 1] } as const;
  return {
    ...{ format: 'hqq', stored: `hqq${bits}`, shaped: true },
    data: { '': { type: 'U8', shape: [tableRows, group] }, scales: numbersOf, zeros: numbersOf },
    bytes: { bits, axis: 1, round_zeros: 0, channel_wise: 1 },
    words: { group_size: group, optimization_steps: HQQ_STEPS },
    async stream(put) {
      const table = new Uint8Array(tableRows * group);
      await chunks(m, async (first, rows, bytes) => {
        const view = new DataView(bytes.buffer);
        const scales = new Float32Array(rows * layout.groups);
        const zeros = new Float32Array(rows * layout.groups);
        for (let i = 0; i < scales.length; i++) {
          const at = Math.floor(i / layout.groups) * m.stride;
          const g = i % layout.groups;
          scales[i] = view.getFloat32(at + 4 * g, true);
          zeros[i] = zeroOf(scales[i]!, view.getFloat32(at + layout.biases + 4 * g, true));
          const row = first * layout.groups + i;
          const to = (row % tableRows) * group;
          const shift = bits === 4 && row < tableRows ? 4 : 0;
          for (let k = 0; k < group; k++) {
            const c = g * group + k;
            const code =
              grouping.code === 'u4'
                ? (bytes[at + layout.codes + (c >> 1)]! >> (4 * (c & 1))) & 15
                : bytes[at + layout.codes + c]!;
            table[to + k]! |= code << shift;
          }
        }
        await put('scales', 4 * first * layout.groups, new Uint8Array(scales.buffer));
        await put('zeros', 4 * first * layout.groups, new Uint8Array(zeros.buffer));
      });
      await put('', 0, table);
    },
  };
}

const f = Math.fround;
const word = new Int32Array(1);
const real = new Float32Array(word.buffer);

/** The zero of which `−zero · scale` is exactly `bias`, among the floats beside the quotient. */
function zeroOf(scale: number, bias: number): number {
  const near = f(-bias / scale);
  for (const step of [0, 1, -1, 2, -2]) {
    real[0] = near;
    word[0] = word[0]! + step;
    const zero = real[0]!;
    if (f(-zero * scale) === bias) return zero;
  }
  return near;
}
