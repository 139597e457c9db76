/**
 * Rows of codes under scales that groups of columns share: what the quantized checkpoints of other tools (GPTQ, AWQ, MLX,
 * bitsandbytes, FP8, compressed-tensors, HQQ) are read as. One number is `round(code · scale) + bias` in binary32.
 *
 * **A row** of `columns` columns is one block:
 *
 *     f32 scale per group | f32 bias per group (if any) | u16 group of each column (if indexed) | codes
 *
 * Codes of 4 bits lie two to a byte, the even column in the low half.
 */
import type { StorageType } from './dtype.ts';

/** Unsigned and signed integers, E4M3 floats, and entries of the books of 16 numbers in `src/quant/codes.ts`. */
export type GroupCode = 'u4' | 'u8' | 'i8' | 'e4m3' | 'nf4' | 'fp4' | 'e2m1';

export interface Grouping {
  /** The format as reports name it: `GPTQ4`, `NF4`, … */
  readonly label: string;
  readonly code: GroupCode;
  /** Consecutive columns under one scale, the last group possibly shorter. Indexed: the number of groups instead. */
  readonly group: number;
  readonly bias: boolean;
  /** Every column names its group: columns of a group need not be neighbours. */
  readonly indexed: boolean;
  /**
   * Back-ends may round activations to so many bits beside these codes: what is quantized here, for speed. Absent: to no
   * less than 16, so that checkpoints quantized elsewhere give what their codes stand for.
   */
  readonly activationBits?: 8;
}

/** Byte offsets inside a row. */
export interface GroupedRow {
  readonly groups: number;
  readonly biases: number;
  readonly index: number;
  readonly codes: number;
  readonly bytes: number;
}

/** Column numbers of groups are 16 bits wide. */
export const MAX_INDEXED_GROUPS = 2 ** 16;

/** Bits of a code. */
export function codeBits(code: GroupCode): 4 | 8 {
  return code === 'u8' || code === 'i8' || code === 'e4m3' ? 8 : 4;
}

export function groupedRow(g: Grouping, columns: number): GroupedRow {
  const groups = g.indexed ? g.group : Math.ceil(columns / g.group);
  const biases = 4 * groups;
  const index = biases + (g.bias ? 4 * groups : 0);
  const codes = index + (g.indexed ? 2 * columns : 0);
  return { groups, biases, index, codes, bytes: codes + Math.ceil((columns * codeBits(g.code)) / 8) };
}

/** The storage type of rows of `columns` columns. */
export function groupedType(grouping: Grouping, columns: number): StorageType {
  const { bytes } = groupedRow(grouping, columns);
  return { name: 'GROUPED', blockSize: columns, blockBytes: bytes, ggml: undefined, grouping };
}
