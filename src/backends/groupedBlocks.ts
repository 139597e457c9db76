/** Block types that are grouped rows in other words: what they are as such. */
import type { RawSection } from '../core/backend.ts';
import { rowBytes, type StorageTypeName, storageType } from '../core/dtype.ts';
import { codeBits, type GroupCode, type Grouping, groupedRow, groupedType } from '../core/grouped.ts';
import { codeAt } from '../quant/bitStream.ts';
import { CODE_VALUES } from '../quant/codes.ts';

/** How blocks of a storage type become groups of a row. */
interface BlockReader {
  readonly code: GroupCode;
  /** All that the codes need. */
  readonly bits: 2 | 3 | 4 | 6 | 8;
  readonly bias: boolean;
  scale(bytes: DataView, at: number): number;
  /** Code `i` of the block at byte `at`. */
  codeOf(bytes: Uint8Array, at: number, i: number): number;
}

const firstFloat = (bytes: DataView, at: number) => bytes.getFloat32(at, true);

function afq(bits: BlockReader['bits']): BlockReader {
  return {
    code: bits <= 4 ? 'u4' : 'u8',
    bits,
    bias: true,
    scale: firstFloat,
    codeOf: (bytes, at, i) => codeAt(bytes, at + 8, bits, i),
  };
}

function book(code: 'nf4' | 'fp4'): BlockReader {
  const codeOf: BlockReader['codeOf'] = (bytes, at, i) => (bytes[at + 4 + (i >> 1)]! >> (i & 1 ? 0 : 4)) & 15;
  return { code, bits: 4, bias: false, scale: firstFloat, codeOf };
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
    codeOf: (bytes, at, i) => bytes[at + 1 + i]!,
  },
};

export interface GroupedBlocks {
  readonly grouping: Grouping;
  /** Bits that the codes need, at most those of `grouping`. */
  readonly bits: BlockReader['bits'];
  /** The same rows as grouped rows. */
  rewrite(raw: RawSection, columns: number): RawSection;
}

/** The block types whose matrices are kept as grouped rows. */
export const GROUPED_BLOCKS: ReadonlyMap<StorageTypeName, GroupedBlocks> = new Map(
  Object.entries(READERS).map(([key, reader]): [StorageTypeName, GroupedBlocks] => {
    const name = key as StorageTypeName;
    const { code, bits, bias } = reader;
    const grouping: Grouping = { label: name, code, group: storageType(name).blockSize, bias, indexed: false };
    return [name, { grouping, bits, rewrite: (raw, columns) => rewritten(raw, columns, grouping, reader) }];
  }),
);

function rewritten(raw: RawSection, columns: number, g: Grouping, reader: BlockReader): RawSection {
  const type = groupedType(g, columns);
  const layout = groupedRow(g, columns);
  const { blockBytes } = raw.type;
  const stored = rowBytes(raw.type, columns)!;
  const nibbles = codeBits(g.code) === 4;
  return {
    type,
    rows: raw.rows,
    async readRows(first, rows, target) {
      const bytes = new Uint8Array(rows * stored);
      await raw.readRows(first, rows, bytes);
      const view = new DataView(bytes.buffer);
      const out = new DataView(target.buffer, target.byteOffset, target.byteLength);
      for (let row = 0, to = 0; row < rows; row++, to += layout.bytes) {
        target.fill(0, to + layout.codes, to + layout.bytes);
        for (let block = 0; block < layout.groups; block++) {
          const at = row * stored + block * blockBytes;
          out.setFloat32(to + 4 * block, reader.scale(view, at), true);
          if (g.bias) out.setFloat32(to + layout.biases + 4 * block, view.getFloat32(at + 4, true), true);
          for (let i = 0; i < g.group; i++) {
            const k = block * g.group + i;
            const code = reader.codeOf(bytes, at, i);
            if (nibbles) target[to + layout.codes + (k >> 1)]! |= code << (4 * (k & 1));
            else target[to + layout.codes + k] = code;
          }
        }
      }
    },
  };
}
