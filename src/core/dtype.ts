/** Element and block types: how numbers lie in memory and in files. */
import type { Grouping } from './grouped.ts';

/** Element types of a `Tensor`. Kernels compute on `f32`; the others are storage and indices. */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u8';

export const DTYPE_BYTES: Readonly<Record<DType, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4, u8: 1 };

export type TypedArray = Float32Array | Int32Array | Uint16Array | Uint8Array;

/** A storage type of a checkpoint: `blockSize` consecutive elements of a row occupy `blockBytes` bytes. */
export interface StorageType {
  readonly name: StorageTypeName;
  readonly blockSize: number;
  readonly blockBytes: number;
  /** Type number in GGUF files, where that format has it. */
  readonly ggml: number | undefined;
  /** Of `GROUPED` rows: what their codes mean. */
  readonly grouping?: Grouping | undefined;
}

const types = {
  F32: [1, 4, 0],
  F16: [1, 2, 1],
  BF16: [1, 2, 30],
  F64: [1, 8, 28],
  I8: [1, 1, 24],
  I16: [1, 2, 25],
  I32: [1, 4, 26],
  I64: [1, 8, 27],
  U8: [1, 1, undefined],
  U16: [1, 2, undefined],
  U32: [1, 4, undefined],
  U64: [1, 8, undefined],
  BOOL: [1, 1, undefined],
  F8_E4M3: [1, 1, undefined],
  F8_E5M2: [1, 1, undefined],
  F8_E8M0: [1, 1, undefined],
  F8_E4M3FNUZ: [1, 1, undefined],
  F8_E5M2FNUZ: [1, 1, undefined],
  F4: [2, 1, undefined],
  F6_E2M3: [4, 3, undefined],
  F6_E3M2: [4, 3, undefined],
  C64: [1, 8, undefined],
  Q4_0: [32, 18, 2],
  Q4_1: [32, 20, 3],
  Q5_0: [32, 22, 6],
  Q5_1: [32, 24, 7],
  Q8_0: [32, 34, 8],
  Q8_1: [32, 36, 9],
  Q2_K: [256, 84, 10],
  Q3_K: [256, 110, 11],
  Q4_K: [256, 144, 12],
  Q5_K: [256, 176, 13],
  Q6_K: [256, 210, 14],
  Q8_K: [256, 292, 15],
  IQ2_XXS: [256, 66, 16],
  IQ2_XS: [256, 74, 17],
  IQ3_XXS: [256, 98, 18],
  IQ1_S: [256, 50, 19],
  IQ4_NL: [32, 18, 20],
  IQ3_S: [256, 110, 21],
  IQ2_S: [256, 82, 22],
  IQ4_XS: [256, 136, 23],
  IQ1_M: [256, 56, 29],
  TQ1_0: [256, 54, 34],
  TQ2_0: [256, 66, 35],
  MXFP4: [32, 17, 39],
  NVFP4: [64, 36, 40],
  Q1_0: [128, 18, 41],
  AFQ2: [64, 24, undefined],
  AFQ2_G32: [32, 16, undefined],
  AFQ2_G128: [128, 40, undefined],
  AFQ3: [64, 32, undefined],
  AFQ3_G32: [32, 20, undefined],
  AFQ3_G128: [128, 56, undefined],
  AFQ4: [64, 40, undefined],
  AFQ4_G32: [32, 24, undefined],
  AFQ4_G128: [128, 72, undefined],
  AFQ6: [64, 56, undefined],
  AFQ6_G32: [32, 32, undefined],
  AFQ6_G128: [128, 104, undefined],
  AFQ8: [64, 72, undefined],
  AFQ8_G32: [32, 40, undefined],
  AFQ8_G128: [128, 136, undefined],
  F8Q8: [32, 33, undefined],
  NF4: [64, 36, undefined],
  FP4: [64, 36, undefined],
} as const satisfies Record<string, readonly [number, number, number | undefined]>;

/** `GROUPED` rows have no fixed size: `groupedType` makes their types. */
export type StorageTypeName = keyof typeof types | 'GROUPED';

const entry = ([name, [blockSize, blockBytes, ggml]]: [string, readonly [number, number, number | undefined]]) =>
  [name, { name: name as StorageTypeName, blockSize, blockBytes, ggml }] as const;

/** Every storage type by name. */
export const STORAGE_TYPES: ReadonlyMap<string, StorageType> = new Map(Object.entries(types).map(entry));

/** Storage types by their GGUF type number. */
export const GGML_TYPES: ReadonlyMap<number, StorageType> = new Map(
  [...STORAGE_TYPES.values()].flatMap((t) => (t.ggml === undefined ? [] : [[t.ggml, t] as const])),
);

export function storageType(name: StorageTypeName): StorageType {
  return STORAGE_TYPES.get(name) as StorageType;
}

/** Bytes of one row of `elements` elements; `undefined` when the row does not divide into whole blocks. */
export function rowBytes(type: StorageType, elements: number): number | undefined {
  return elements % type.blockSize === 0 ? (elements / type.blockSize) * type.blockBytes : undefined;
}

const word = new Uint32Array(1);
const real = new Float32Array(word.buffer);

/** IEEE 754 binary16 bits to number, subnormals, infinities and NaN included. */
export function f16ToF32(bits: number): number {
  if ((bits & 0x7c00) === 0x7c00) {
    return bits & 1023 ? Number.NaN : bits & 0x8000 ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  }
  // The fields moved to their places in an f32 give the value with an exponent 112 too small, subnormals included.
  word[0] = ((bits & 0x8000) << 16) | ((bits & 0x7fff) << 13);
  return (real[0] as number) * 2 ** 112;
}

/** Number to IEEE 754 binary16 bits, round to nearest even; overflow becomes infinity. */
export function f32ToF16(value: number): number {
  real[0] = value;
  const bits = word[0] as number;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal in f16: adding 0.5 leaves the rounded fraction in the low bits of the sum.
    real[0] = Math.abs(value) + 0.5;
    return sign | ((word[0] as number) - 0x3f000000);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** bfloat16 bits to number. */
export function bf16ToF32(bits: number): number {
  word[0] = bits << 16;
  return real[0] as number;
}

/** Number to bfloat16 bits, round to nearest even; NaN stays NaN. */
export function f32ToBf16(value: number): number {
  real[0] = value;
  const bits = word[0] as number;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 64;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}
