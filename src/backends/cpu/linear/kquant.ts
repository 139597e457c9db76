/**
 * Formats whose codes are small integers under a hierarchy of scales: the K-quants, every other block format of GGUF
 * files, which is rewritten at load into one of the layouts below, and grouped rows (`groupedLayout.ts`). Nothing is
 * expanded to floats, and nothing is rounded: reading a row back gives the floats that the file's format defines.
 *
 * | storage type        | layout    | codes                        | scale per             | bits per weight (file) |
 * |---------------------|-----------|------------------------------|-----------------------|------------------------|
 * | Q2_K                | `Q2_K`    | 2 bits, minimum              | 16: u4, 256: f32      | 2.75 (2.63)            |
 * | Q3_K                | `Q3_K`    | 3 bits − 4                   | 16: i8, 256: f32      | 3.63 (3.44)            |
 * | Q4_K                | `Q4_K`    | 4 bits, minimum              | 32: u8, 256: f32      | 4.75 (4.50)            |
 * | Q5_K                | `Q5_K`    | 5 bits, minimum              | 32: u8, 256: f32      | 5.75 (5.50)            |
 * | Q6_K                | `Q6_K`    | 6 bits − 32                  | 16: i8, 256: f32      | 6.63 (6.56)            |
 * | Q8_K                | `Q8_K`    | 8 bits                       | 256: f32              | 8.13 (9.13)            |
 * | IQ1_S               | `IQ1_S`   | 3 bits into ±{1, 7, 9}       | 32: i8, 256: f32      | 3.38 (1.56)            |
 * | IQ1_M               | `IQ1_M`   | 3 bits into ±{1, 7, 9}       | 16: i8, 256: f32      | 3.63 (1.75)            |
 * | IQ2_XXS             | `IQ2_XXS` | 3 bits into ±{8, 25, 43}     | 32: i8, 256: f32      | 3.38 (2.06)            |
 * | IQ2_XS, IQ2_S       | `IQ2_S`   | 3 bits into ±{8, 25, 43}     | 16: i8, 256: f32      | 3.63 (2.31, 2.56)      |
 * | IQ3_XXS             | `IQ3_XXS` | 4 bits into ±{4, 12, …, 62}  | 32: i8, 256: f32      | 4.38 (3.06)            |
 * | IQ3_S               | `IQ3_S`   | 4 bits into ±{1, 3, …, 15}   | 32: i8, 256: f32      | 4.38 (3.44)            |
 * | IQ4_XS              | `IQ4_XS`  | 4 bits into −127 … 113       | 32: i8, 256: f32      | 4.38 (4.25)            |
 * | TQ1_0, TQ2_0        | `TQ2_0`   | 2 bits − 1                   | 256: f32              | 2.13 (1.69, 2.06)      |
 * | IQ4_NL              | `IQ4_NL`  | 4 bits into −127 … 113       | 32: f16               | 4.50 (4.50)            |
 * | MXFP4               | `MXFP4`   | 4 bits into ±{0, 1, …, 12}   | 32: bf16              | 4.50 (4.25)            |
 * | NVFP4               | `NVFP4`   | 4 bits into ±{0, 1, …, 12}   | 16: bf16              | 5.00 (4.50)            |
 * | Q1_0                | `Q1_0`    | 1 bit into ±1                | 32: f16               | 1.50 (1.13)            |
 * | Q8_1                | Q8_0      | (its sums are dropped)       | 32: f16               | 8.50 (9.00)            |
 *
 * Grouped rows have one layout per kind of code and width of group, up to 1024 columns: scales and biases are f32.
 *
 * Every mapping is exact. Scales of 256 columns are kept as f32 because most of them are subnormal as binary16, and
 * multiplying subnormal numbers is slow. Layouts with blocks of 256 columns are multiplied with activations quantized per
 * 256 columns (`kquantActivations.ts`), those with blocks of 32 with the ones of the other 32-column formats
 * (`quantize.ts`), like those of grouped rows.
 *
 * **A block** of a group of 8 rows (two quads of 4) is
 *
 *     8 × scale | 8 × −scale of minima, or bias | 8 bytes of scales per run | 2 × 8 bytes of minima per two runs | codes
 *
 * where a run is 16 or 32 columns. Codes come in pairs of 16 columns, and a pair in eight steps of 4 columns; a vector
 * holds the codes of 4 rows × 4 columns, byte `4 row + column`, and the vectors of the two quads alternate. With
 * activations per 256 columns the steps are in order of the columns; with 32, even steps are in the first 16 columns and
 * odd ones in the second, as in `layout.ts`. `kquantCodes.ts` says how the bits of the steps share vectors.
 */
import type { Variant } from '../kernel.ts';
import { ACTIVATION_SCALE, GROUP, HALF_SCALE } from './layout.ts';

export interface CodeFormat {
  readonly name: string;
  /** Columns of a block, a power of two, at least 32. */
  readonly block: number;
  /** Columns under one scale of the activations; absent: 32. */
  readonly inputs?: 256;
  readonly bits: 1 | 2 | 3 | 4 | 5 | 6 | 8;
  /** The values of the codes; absent: codes are values. */
  readonly table?: readonly number[];
  /** The numbers that codes stand for, of which `table` has multiples, rounded to integers of 12 bits. */
  readonly book?: { readonly numbers: Float32Array; readonly multiple: number };
  /** Added to every value so that none is negative; 0: none is. Absent: values are signed. */
  readonly offset?: number;
  /** Values do not fit into 0 … 127: products of 16 bits. */
  readonly wide?: boolean;
  /** Columns under one integer scale; absent: a block has none. */
  readonly run?: 16 | 32;
  readonly scale: 'f32' | 'f16' | 'bf16';
  /** A scale for each half of 16 columns. */
  readonly scalePerHalf?: true;
  /** Minima are subtracted: bytes of their own, or the high nibbles of the scales of runs. A bias is added: a float. */
  readonly minimum?: 'bytes' | 'nibbles' | 'bias';
}

/** Magnitudes, and the same with the sign in a bit of the code. */
const signed = (magnitudes: readonly number[]): readonly number[] => [...magnitudes, ...magnitudes.map((v) => -v)];
const FP4_DOUBLED = signed([0, 1, 2, 3, 4, 6, 8, 12]);
const NON_LINEAR = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;
/** 8 (code − 1) + 1 or − 1; every fourth code is not used. */
const IQ1_VALUES = [-7, 1, 9, 0, -9, -1, 7, 0] as const;
const IQ2_VALUES = signed([8, 25, 43, 0]);
const IQ3_XXS_VALUES = signed([4, 12, 20, 28, 36, 44, 52, 62]);
const IQ3_S_VALUES = signed([1, 3, 5, 7, 9, 11, 13, 15]);

const superBlock = { block: 256, inputs: 256, scale: 'f32' } as const;

/** The layouts by name. Codes and tables are made for `kquantRewrite.ts`, which says how files get there. */
export const CODE_FORMATS = {
  Q2_K: { ...superBlock, name: 'Q2_K', bits: 2, offset: 0, run: 16, minimum: 'nibbles' },
  Q3_K: { ...superBlock, name: 'Q3_K', bits: 3, offset: 4, run: 16 },
  Q4_K: { ...superBlock, name: 'Q4_K', bits: 4, offset: 0, run: 32, minimum: 'bytes' },
  Q5_K: { ...superBlock, name: 'Q5_K', bits: 5, offset: 0, run: 32, minimum: 'bytes' },
  Q6_K: { ...superBlock, name: 'Q6_K', bits: 6, offset: 32, run: 16 },
  Q8_K: { ...superBlock, name: 'Q8_K', bits: 8, wide: true },
  IQ1_S: { ...superBlock, name: 'IQ1_S', bits: 3, table: IQ1_VALUES, offset: 16, run: 32 },
  IQ1_M: { ...superBlock, name: 'IQ1_M', bits: 3, table: IQ1_VALUES, offset: 16, run: 16 },
  IQ2_XXS: { ...superBlock, name: 'IQ2_XXS', bits: 3, table: IQ2_VALUES, offset: 64, run: 32 },
  IQ2_S: { ...superBlock, name: 'IQ2_S', bits: 3, table: IQ2_VALUES, offset: 64, run: 16 },
  IQ3_XXS: { ...superBlock, name: 'IQ3_XXS', bits: 4, table: IQ3_XXS_VALUES, offset: 64, run: 32 },
  IQ3_S: { ...superBlock, name: 'IQ3_S', bits: 4, table: IQ3_S_VALUES, offset: 16, run: 32 },
  IQ4_XS: { ...superBlock, name: 'IQ4_XS', bits: 4, table: NON_LINEAR, offset: 128, wide: true, run: 32 },
  TQ2_0: { ...superBlock, name: 'TQ2_0', bits: 2, offset: 1 },
  IQ4_NL: { name: 'IQ4_NL', block: 32, bits: 4, table: NON_LINEAR, offset: 128, wide: true, scale: 'f16' },
  MXFP4: { name: 'MXFP4', block: 32, bits: 4, table: FP4_DOUBLED, offset: 12, scale: 'bf16' },
  NVFP4: { name: 'NVFP4', block: 32, bits: 4, table: FP4_DOUBLED, wide: true, scale: 'bf16', scalePerHalf: true },
  Q1_0: { name: 'Q1_0', block: 32, bits: 1, table: [-1, 1], offset: 1, scale: 'f16' },
} as const satisfies Record<string, CodeFormat>;

export type CodeFormatName = keyof typeof CODE_FORMATS;

/** Columns of a pair: two times 16. */
export const PAIR = 32;
/** Steps of a pair, 4 columns each. */
export const PAIR_STEPS = 8;

/** Byte offsets inside one block of a group of 8 rows. */
export interface CodeOffsets {
  /** The scales of the second half, or of the minima. */
  readonly second: number;
  readonly scales: number;
  readonly minima: number;
  readonly codes: number;
  /** Bytes of the codes of a pair of 16 columns. */
  readonly pair: number;
  readonly bytes: number;
}

export function codeOffsets(format: CodeFormat): CodeOffsets {
  const second = GROUP * (format.scale === 'f32' ? 4 : 2);
  const scales = second * (format.minimum || format.scalePerHalf ? 2 : 1);
  const runs = format.run ? format.block / format.run : 0;
  const minima = scales + runs * GROUP;
  const codes = minima + (format.minimum === 'bytes' ? runs * GROUP : 0);
  const pair = (PAIR * GROUP * format.bits) / 8;
  return { second, scales, minima, codes, pair, bytes: codes + (format.block / PAIR) * pair };
}

/** Activations of 16 bits: where the products of bytes would not fit, and in plain SIMD128. */
export function isWide(format: CodeFormat, variant: Variant): boolean {
  return format.wide === true || variant.dot === 'simd';
}

/**
 * What finished sums are multiplied with: activations in blocks of 32 come with a factor, and binary16 scales are read
 * without correcting their exponents (`layout.ts`).
 */
export function resultScale(format: CodeFormat): number {
  if (format.inputs === 256 || format.scale === 'f32') return 1;
  return 1 / (ACTIVATION_SCALE * (format.scale === 'f16' ? HALF_SCALE : 1));
}

/** The same for the scales of activations under f32 scales, which may be so large that the factor cannot wait. */
export function inputScale(format: CodeFormat): number {
  if (format.inputs === 256 || format.scale !== 'f32') return 1;
  return Math.fround(1 / ACTIVATION_SCALE / (format.book?.multiple ?? 1));
}

const INT16_MAX = 32_767;
const LARGEST_ACTIVATION = 127;

/**
 * How many steps of products a 16-bit sum holds. `corrected`: the offset is taken back inside of the sum, which may then
 * wrap around on the way; this needs room for the values only, not for values plus offset.
 */
export function sumsOf(format: CodeFormat): { readonly steps: 1 | 2 | 4 | 8; readonly corrected: boolean } {
  const offset = format.offset ?? 0;
  const values = format.table ?? [-offset, 2 ** format.bits - 1 - offset];
  const stepsFor = (largest: number) => {
    const steps = Math.floor(INT16_MAX / (2 * LARGEST_ACTIVATION * largest));
    const power = steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
    return power === 8 && format.run === 16 ? 4 : power;
  };
  const plain = stepsFor(Math.max(...values) + offset);
  const corrected = stepsFor(Math.max(...values.map(Math.abs)));
  // Corrections are made for 16 columns.
  return plain < 4 && corrected >= 4 ? { steps: 4, corrected: true } : { steps: plain, corrected: false };
}
