import type { StorageTypeName } from '../../../core/dtype.ts';
import { CODE_FORMATS, type CodeFormat } from './kquant.ts';

/** `bits` bits from bit `from` of the byte at `at` are bits `to` … of a number. */
export interface StoredBits {
  readonly at: number;
  readonly from: number;
  readonly bits: number;
  readonly to: number;
}
const field = (at: number, from: number, bits: number, to = 0): StoredBits => ({ at, from, bits, to });

/** How a block of a row lies in memory before it is interleaved with those of other rows. */
export interface StoredFormat {
  readonly format: CodeFormat;
  /** Bytes of a block of `format.block` columns. */
  readonly bytes: number;
  /** Byte of the block's scale. `e8m0`: a power of two in one byte; otherwise of the kind named. */
  readonly scale: { readonly at: number; readonly kind: 'f16' | 'f32' | 'bf16' | 'e8m0' };
  /** Byte of the scale of the minima (f16), or of the second half (as `scale`). */
  readonly second?: number;
  /** The scale of a run: its bits, and what is added to them. */
  readonly runScale?: (run: number) => readonly StoredBits[];
  readonly runBias?: number;
  /** The minimum of a run, where it does not come with the scale. */
  readonly runMinimum?: (run: number) => readonly StoredBits[];
  /** The codes of columns 16 `chunk` …: every field stands for 16 consecutive bytes, one per column. */
  readonly codes: (chunk: number) => readonly StoredBits[];
}

const f16 = (at: number) => ({ at, kind: 'f16' }) as const;

// The layouts of the blocks are described in src/quant, file by file.

/** Q4_K and Q5_K: 6-bit scales and minima of runs 0–3 in bytes 4–11, those of 4–7 in parts. */
const packedScale = (run: number) => (run < 4 ? [field(4 + run, 0, 6)] : [field(8 + run, 0, 4), field(run, 6, 2, 4)]);
const packedMinimum = (run: number) =>
  run < 4 ? [field(8 + run, 0, 6)] : [field(8 + run, 4, 4), field(4 + run, 6, 2, 4)];

/** Two-bit codes: a half of 128 columns has 32 bytes, whose bits 2k, 2k + 1 belong to its column 32k + byte. */
const twoBits = (first: number, chunk: number) => field(first + (chunk >> 3) * 32 + (chunk & 1) * 16, chunk & 6, 2);
/** Nibbles: 32 bytes hold 64 columns, the first 32 in their low halves. */
const nibblesOf64 = (first: number, chunk: number) =>
  field(first + (chunk >> 2) * 32 + (chunk & 1) * 16, (chunk & 2) * 2, 4);
/** Nibbles: 16 bytes hold 32 columns, the first 16 in their low halves. */
const nibblesOf32 = (first: number, chunk: number) => field(first + (chunk >> 1) * 16, (chunk & 1) * 4, 4);

/** The types that are read as checkpoints store them. */
export const STORED_FORMATS = {
  Q2_K: {
    format: CODE_FORMATS.Q2_K,
    bytes: 84,
    scale: f16(80),
    second: 82,
    runScale: (run) => [field(run, 0, 8)],
    codes: (chunk) => [twoBits(16, chunk)],
  },
  Q3_K: {
    format: CODE_FORMATS.Q3_K,
    bytes: 110,
    scale: f16(108),
    runScale: (run) => [field(96 + (run & 7), run & 8 ? 4 : 0, 4), field(104 + (run & 3), (run >> 2) * 2, 2, 4)],
    runBias: -32,
    codes: (chunk) => [twoBits(32, chunk), field((chunk & 1) * 16, chunk >> 1, 1, 2)],
  },
  Q4_K: {
    format: CODE_FORMATS.Q4_K,
    bytes: 144,
    scale: f16(0),
    second: 2,
    runScale: packedScale,
    runMinimum: packedMinimum,
    codes: (chunk) => [nibblesOf64(16, chunk)],
  },
  Q5_K: {
    format: CODE_FORMATS.Q5_K,
    bytes: 176,
    scale: f16(0),
    second: 2,
    runScale: packedScale,
    runMinimum: packedMinimum,
    codes: (chunk) => [nibblesOf64(48, chunk), field(16 + (chunk & 1) * 16, chunk >> 1, 1, 4)],
  },
  Q6_K: {
    format: CODE_FORMATS.Q6_K,
    bytes: 210,
    scale: f16(208),
    runScale: (run) => [field(192 + run, 0, 8)],
    codes: (chunk) => [
      field((chunk >> 3) * 64 + (chunk & 3) * 16, chunk & 4, 4),
      field(128 + (chunk >> 3) * 32 + (chunk & 1) * 16, chunk & 6, 2, 4),
    ],
  },
  IQ4_XS: {
    format: CODE_FORMATS.IQ4_XS,
    bytes: 136,
    scale: f16(0),
    runScale: (run) => [field(4 + (run >> 1), (run & 1) * 4, 4), field(2 + (run >> 2), (run & 3) * 2, 2, 4)],
    runBias: -32,
    codes: (chunk) => [nibblesOf32(8, chunk)],
  },
  TQ2_0: {
    format: CODE_FORMATS.TQ2_0,
    bytes: 66,
    scale: f16(64),
    codes: (chunk) => [twoBits(0, chunk)],
  },
  IQ4_NL: {
    format: CODE_FORMATS.IQ4_NL,
    bytes: 18,
    scale: f16(0),
    codes: (chunk) => [nibblesOf32(2, chunk)],
  },
  MXFP4: {
    format: CODE_FORMATS.MXFP4,
    bytes: 17,
    scale: { at: 0, kind: 'e8m0' },
    codes: (chunk) => [nibblesOf32(1, chunk)],
  },
} as const satisfies Partial<Record<StorageTypeName, StoredFormat>>;

/**
 * The intermediate form that other types are rewritten to (`kquantRewrite.ts`): the scale as in the layout, one for each
 * half if it has two, the bias, one byte per run, and the codes as bytes.
 */
export function plainStored(format: CodeFormat): StoredFormat {
  const width = format.scale === 'f32' ? 4 : 2;
  const two = format.scalePerHalf || format.minimum === 'bias';
  const second = two ? { second: width } : {};
  const scales = width * (two ? 2 : 1);
  const runs = format.run ? format.block / format.run : 0;
  const codes = scales + runs;
  return {
    format,
    bytes: codes + format.block,
    scale: { at: 0, kind: format.scale },
    ...second,
    ...(runs ? { runScale: (run) => [field(scales + run, 0, 8)] } : {}),
    codes: (chunk) => [field(codes + 16 * chunk, 0, 8)],
  };
}
