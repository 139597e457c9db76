/** Block types that are grouped rows in other words: what they are as such. */
import type { RawSection } from '../core/backend.ts';
import { rowBytes, type StorageTypeName, storageType } from '../core/dtype.ts';
import { codeBits, type GroupCode, type Grouping, groupedRow, groupedType } from '../core/grouped.ts';
import { codesInto } from '../quant/bitStream.ts';
import { CODE_VALUES } from '../quant/codes.ts';

/** How blocks of a storage type become groups of a row. */
interface BlockReader {
  readonly code: GroupCode;
  /** As many hold the codes; at most those of `code`. */
  readonly bits: 2 | 3 | 4 | 6 | 8;
  readonly bias: boolean;
  scale(bytes: DataView, at: number): number;
  /** The codes of the block at byte `at`, a byte each. */
  codes(bytes: Uint8Array, at: number, out: Uint8Array, outAt: number, count: number): void;
}

const firstFloat = (bytes: DataView, at: number) => bytes.getFloat32(at, true);
/** Where blocks with a bias have it. */
export const BIAS_AT = 4;

function afq(bits: BlockReader['bits']): BlockReader {
  return {
    code: bits <= 4 ? 'u4' : 'u8',
    bits,
    bias: true,
    scale: firstFloat,
    codes: (bytes, at, out, outAt, count) => codesInto(bytes, at + 8, bits, out, outAt, count),
  };
}

function book(code: 'nf4' | 'fp4'): BlockReader {
  const codes: BlockReader['codes'] = (bytes, at, out, outAt, count) => {
    for (let i = 0; i < count; i += 2) {
      const two = bytes[at + 4 + (i >> 1)]!;
      out[outAt + i] = two >> 4;
      out[outAt + i + 1] = two & 15;
    }
  };
  return { code, bits: 4, bias: false, scale: firstFloat, codes };
}

/** Types of blocks that are kept as grouped rows, without loss. */
const READERS: Partial<Record<StorageTypeName, BlockReader>> = {
  ...Object.fromEntries(
    ([2, 3, 4, 6, 8] as const).flatMap((bits) =>
      ['', '_G32', '_G128'].map((group) => [`AFQ${bits}${group}`, afq(bits)]),
    ),
  ),
  NF4: book('nf4'),
  FP4: book('fp4'),
  F8Q8: {
    code: 'i8',
    bits: 8,
    bias: false,
    scale: (bytes, at) => CODE_VALUES.e4m3[bytes.getUint8(at)]! / 448,
    codes: (bytes, at, out, outAt, count) => out.set(bytes.subarray(at + 1, at + 1 + count), outAt),
  },
};

export interface GroupedBlocks extends Pick<BlockReader, 'bits' | 'scale' | 'codes'> {
  readonly grouping: Grouping;
  /** The same rows as grouped rows. */
  rewrite(raw: RawSection, columns: number): RawSection;
}

/** The block types whose matrices are kept as grouped rows. */
export const GROUPED_BLOCKS: ReadonlyMap<StorageTypeName, GroupedBlocks> = new Map(
  Object.entries(READERS).map(([key, reader]): [StorageTypeName, GroupedBlocks] => {
    const name = key as StorageTypeName;
    const { code, bias, bits, scale, codes } = reader;
    const grouping: Grouping = {
      ...{ label: name, code, group: storageType(name).blockSize, bias, indexed: false },
      // Codes of more bits, or from books, do not fit into products of bytes.
      ...(bias && bits < 8 ? { activationBits: 8 } : {}),
    };
    const rewrite: GroupedBlocks['rewrite'] = (raw, columns) => rewritten(raw, columns, grouping, reader);
    return [name, { grouping, bits, scale, codes, rewrite }];
  }),
);

function rewritten(raw: RawSection, columns: number, g: Grouping, reader: BlockReader): RawSection {
  const type = groupedType(g, columns);
  const layout = groupedRow(g, columns);
  const { blockBytes } = raw.type;
  const stored = rowBytes(raw.type, columns)!;
  const nibbles = codeBits(g.code) === 4;
  const codes = new Uint8Array(g.group);
  return {
    type,
    rows: raw.rows,
    async readRows(first, rows, target) {
      const bytes = new Uint8Array(rows * stored);
      await raw.readRows(first, rows, bytes);
      const view = new DataView(bytes.buffer);
      const out = new DataView(target.buffer, target.byteOffset, target.byteLength);
      for (let row = 0, to = 0; row < rows; row++, to += layout.bytes) {
        for (let block = 0; block < layout.groups; block++) {
          const at = row * stored + block * blockBytes;
          out.setFloat32(to + 4 * block, reader.scale(view, at), true);
          if (g.bias) out.setFloat32(to + layout.biases + 4 * block, view.getFloat32(at + BIAS_AT, true), true);
          reader.codes(bytes, at, codes, 0, g.group);
          const first = to + layout.codes + (block * g.group * codeBits(g.code)) / 8;
          if (!nibbles) target.set(codes, first);
          else for (let i = 0; i < g.group; i += 2) target[first + (i >> 1)] = codes[i]! | (codes[i + 1]! << 4);
        }
      }
    },
  };
}
