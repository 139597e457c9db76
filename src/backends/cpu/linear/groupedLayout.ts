/** Grouped rows (`src/core/grouped.ts`) in the layouts of `kquant.ts`, whose codes are multiplied as integers. */
import { type GroupCode, type Grouping, groupedRow } from '../../../core/grouped.ts';
import { CODE_VALUES } from '../../../quant/codes.ts';
import { BIAS_AT, type GroupedBlocks } from '../../groupedBlocks.ts';
import { type CodeFormat, PAIR } from './kquant.ts';
import type { RowRewriter } from './kquantRewrite.ts';
import { plainStored } from './kquantStored.ts';

type CodeKind = Pick<CodeFormat, 'bits' | 'table' | 'book' | 'offset'>;

const bookOf = (numbers: Float32Array, multiple: number) => ({
  table: Array.from(numbers, (x) => Math.round(x * multiple)),
  book: { numbers, multiple },
});

/** Codes whose numbers are integers under a common factor, or nearly so. */
const KINDS: Partial<Record<GroupCode, CodeKind>> = {
  u4: { bits: 4, offset: 0 },
  u8: { bits: 8, offset: 0 },
  i8: { bits: 8 },
  // 32 products of 2047 and the largest activation stay below 2^31.
  nf4: { bits: 4, ...bookOf(CODE_VALUES.nf4, 2047) },
  // Ten times 192, of which all numbers are multiples.
  fp4: { bits: 4, ...bookOf(CODE_VALUES.fp4, 1920) },
  e2m1: { bits: 4, ...bookOf(CODE_VALUES.e2m1, 2) },
};

/** Wider groups have their scale more than once. */
const MAX_BLOCK = 1024;

/**
 * The layout of rows of `columns` columns; `undefined` where codes are no integers or groups end amid 32 columns. `fewer`:
 * so many bits hold the codes.
 */
export function layoutOf(g: Grouping, columns: number, fewer?: CodeFormat['bits']): CodeFormat | undefined {
  const kind = KINDS[g.code];
  if (!kind || g.indexed) return undefined;
  const width = Math.min(g.group, columns);
  const scalePerHalf = width === PAIR / 2 && !g.bias && kind.offset === undefined;
  if (columns % PAIR || columns % width || (width % PAIR && !scalePerHalf)) return undefined;
  let block = PAIR;
  while (block < MAX_BLOCK && width % (2 * block) === 0) block *= 2;
  const bits = fewer ?? kind.bits;
  const wide = g.activationBits !== 8;
  const shape = `${scalePerHalf ? 'halves' : block}${g.bias ? '.bias' : ''}${wide ? '' : '.narrow'}`;
  return {
    ...{ ...kind, bits, wide, block, scale: 'f32', name: `grouped.${g.code}.${bits}.${shape}` },
    ...(g.bias ? { minimum: 'bias' } : {}),
    ...(scalePerHalf ? { scalePerHalf } : {}),
  };
}

/** Rewrites grouped rows into the form that the repacking kernel of a layout reads (`plainStored`). */
export function plainRows(g: Grouping, columns: number, format: CodeFormat): RowRewriter['rewrite'] {
  const layout = groupedRow(g, columns);
  const stored = plainStored(format);
  const firstCode = stored.bytes - format.block;
  const width = Math.min(g.group, columns);
  const nibbles = layout.bytes - layout.codes < columns;
  return (source, target) => {
    const from = new DataView(source.buffer, source.byteOffset, source.byteLength);
    const to = new DataView(target.buffer, target.byteOffset, target.byteLength);
    for (let at = 0, out = 0; at < source.length; at += layout.bytes) {
      for (let k = 0; k < columns; k += format.block, out += stored.bytes) {
        const copyFloat = (first: number, column: number, place: number) =>
          to.setUint32(out + place, from.getUint32(at + first + 4 * Math.floor(column / width), true), true);
        copyFloat(0, k, stored.scale.at);
        if (format.scalePerHalf) copyFloat(0, k + PAIR / 2, stored.second!);
        if (g.bias) copyFloat(layout.biases, k, stored.second!);
        const codes = at + layout.codes;
        if (!nibbles) target.set(source.subarray(codes + k, codes + k + format.block), out + firstCode);
        else {
          for (let i = 0; i < format.block; i += 2) {
            const two = source[codes + ((k + i) >> 1)]!;
            target[out + firstCode + i] = two & 15;
            target[out + firstCode + i + 1] = two >> 4;
          }
        }
      }
    }
  };
}

/** The same for blocks of `blockBytes` bytes, each of which is a group. */
export function plainBlocks(blocks: GroupedBlocks, blockBytes: number, format: CodeFormat): RowRewriter['rewrite'] {
  const { bytes, second } = plainStored(format);
  const firstCode = bytes - format.block;
  return (source, target) => {
    const from = new DataView(source.buffer, source.byteOffset, source.byteLength);
    const to = new DataView(target.buffer, target.byteOffset, target.byteLength);
    for (let at = 0, out = 0; at < source.length; at += blockBytes, out += bytes) {
      to.setFloat32(out, blocks.scale(from, at), true);
      if (blocks.grouping.bias) to.setFloat32(out + second!, from.getFloat32(at + BIAS_AT, true), true);
      blocks.codes(source, at, target, out + firstCode, format.block);
    }
  };
}
