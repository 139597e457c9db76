/**
 * Rows of codes under the scales of column groups (`src/core/grouped.ts`), multiplied by floats. A group of 8 rows is
 * one stream: for each group of columns
 *
 *     8 × f32 scale | 8 × f32 bias (if any) | codes
 *
 * Indexed rows have the scales and biases of all groups in front, then the codes, with the u16 numbers of their groups
 * before them. The codes of a column are 8 bytes, one per row; those of 4 bits are kept two columns at a time, the even
 * one in the low halves.
 */
import { codeBits, type GroupCode } from '../../../core/grouped.ts';
import { CODE_VALUES } from '../../../quant/codes.ts';
import type { Views } from '../kernel.ts';
import type { I32 } from '../wasm/expr.ts';
import { i32 } from '../wasm/ops.ts';
import { GROUP } from './layout.ts';

/** What the kernels of a grouping are made for. */
export interface GroupedFormat {
  readonly name: string;
  readonly code: GroupCode;
  /** Columns of a group, 0: all of a row. Indexed: groups of a row. */
  readonly group: number;
  readonly bias: boolean;
  readonly indexed: boolean;
}

/** Sizes in bytes, for 8 rows. */
export interface GroupedSizes {
  /** Columns whose codes are kept together. */
  readonly step: 1 | 2;
  /** Scales and biases of a group of columns. */
  readonly header: number;
  /** Numbers of groups in front of the codes of a step. */
  readonly index: number;
  /** Numbers and codes of a step. */
  readonly stride: number;
}

/** Two numbers of groups, or one and nothing: scales begin at multiples of 4. */
const INDEX = 4;
/** Bytes of the scales of a group. */
export const SCALES = 4 * GROUP;

export function sizesOf(format: GroupedFormat): GroupedSizes {
  const step = codeBits(format.code) === 4 ? 2 : 1;
  const index = format.indexed ? INDEX : 0;
  return { step, header: format.bias ? 2 * SCALES : SCALES, index, stride: index + GROUP };
}

export function groupsOfRow(format: GroupedFormat, columns: number): number {
  if (format.indexed) return format.group;
  return format.group ? Math.ceil(columns / format.group) : 1;
}

/** Bytes of a group of 8 rows. */
export function groupedBytes(format: GroupedFormat, columns: number): number {
  const { step, header, stride } = sizesOf(format);
  return groupsOfRow(format, columns) * header + (columns / step) * stride;
}

/** The same in WebAssembly. */
export function emitGroupedBytes(format: GroupedFormat, columns: I32): I32 {
  const { step, header, stride } = sizesOf(format);
  const codes = i32.mul(i32.shrU(columns, step - 1), stride);
  return i32.add(i32.mul(emitGroupsOfRow(format, columns), header), codes);
}

export function emitGroupsOfRow(format: GroupedFormat, columns: I32): I32 {
  if (format.indexed) return format.group;
  return format.group ? i32.divU(i32.add(columns, format.group - 1), format.group) : 1;
}

/** For twins: the number at `row` and column `k` of the 8 rows at byte `at`. */
export function groupedNumber(
  m: Views,
  format: GroupedFormat,
  columns: number,
  at: number,
  row: number,
  k: number,
): number {
  const { step, header, index, stride } = sizesOf(format);
  const width = format.group || columns;
  const group = Math.floor(k / width);
  let scales = at + group * (header + (width / step) * stride);
  let codes = scales + header + Math.floor((k - group * width) / step) * stride;
  if (format.indexed) {
    codes = at + format.group * header + Math.floor(k / step) * stride;
    scales = at + header * m.u16[(codes >>> 1) + (k % step)]!;
  }
  const byte = m.u8[codes + index + row]!;
  const code = step === 2 ? (byte >> (4 * (k & 1))) & 15 : byte;
  const product = Math.fround(CODE_VALUES[format.code][code]! * m.f32[(scales >>> 2) + row]!);
  return format.bias ? Math.fround(product + m.f32[((scales + SCALES) >>> 2) + row]!) : product;
}
