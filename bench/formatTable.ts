/** What a storage type costs and how fast it runs, as a table. */
import { type GroupCode, type Grouping, groupedRow } from '../src/core/grouped.ts';
import { quantTypes } from '../src/quant/index.ts';

/** A type of the registry, or rows of codes under group scales as checkpoints of other tools have them. */
export interface Entry {
  readonly name: string;
  readonly bits: number;
  /** `quantize` writes it. */
  readonly writable: boolean;
  /** What back-ends run it as, where that is not the type itself. */
  readonly grouping?: Grouping;
}

/** One back-end, as measured. */
export interface Speed {
  /** Bits per weight that the back-end holds. */
  readonly heldBits: number;
  /** Bytes of weights read in a second while one row is multiplied, in 1e9. */
  readonly gbps: number;
  /** Of many rows. */
  readonly gflops: number;
  /** Of the product, relative, against double precision with the weights as stored: what rounding activations to integers costs. */
  readonly productError: number;
}

export interface Measured {
  readonly entry: Entry;
  /** Of the weights, relative, against those in f32. */
  readonly weightError: number | undefined;
  /** Of the product of one row, relative, against double precision with the weights in f32. */
  readonly productError: number | undefined;
  /** By column; a reason where a back-end does not run the type. */
  readonly speeds: readonly (Speed | string)[];
}

const LABEL = { label: 'GROUPED' } as const;
const grouping = (code: GroupCode, group: number, bias = false, indexed = false): Grouping => ({
  ...{ ...LABEL, code, group, bias, indexed },
});

/** Whole-tensor types as rows of `columns`: group scales become those of the rows. */
function groupingOf(name: string, columns: number): Grouping | undefined {
  // As quantization at load makes it.
  if (name === 'HQQ4') return { ...grouping('u4', 64, true), activationBits: 8 };
  if (/^HQQ/.test(name)) return grouping(name === 'HQQ8' ? 'u8' : 'u4', 64, true);
  if (/^F8E4M3/.test(name)) return grouping('e4m3', name.endsWith('BLOCK') ? 128 : columns);
  return name === 'INT8' ? grouping('i8', columns) : undefined;
}

const checkpoints = (columns: number): readonly (readonly [string, Grouping])[] => [
  ['GPTQ, AWQ: 4 bits, groups of 128', grouping('u4', 128, true)],
  ['GPTQ: 4 bits, act-order', grouping('u4', columns / 128, true, true)],
  ['GPTQ: 8 bits, groups of 128', grouping('u8', 128, true)],
  ['bitsandbytes: NF4 in f32 scales', grouping('nf4', 64)],
  ['bitsandbytes: FP4 in f32 scales', grouping('fp4', 64)],
  ['compressed-tensors: E2M1, groups of 16', grouping('e2m1', 16)],
];

/** Every type of the registry, then what checkpoints of other tools are read as. */
export function entries(columns: number): readonly Entry[] {
  const registered = quantTypes.map(({ name, bitsPerWeight, writable, wholeTensor }): Entry => {
    const as = wholeTensor ? groupingOf(name, columns) : undefined;
    return { name, bits: bitsPerWeight, writable, ...(as && { grouping: as }) };
  });
  const others = checkpoints(columns).map(([name, g]): Entry => {
    // A checkpoint names the group of a column once, not in every row.
    const { bytes, index, codes } = groupedRow(g, columns);
    return { name, bits: (8 * (bytes - (codes - index))) / columns, writable: false, grouping: g };
  });
  return [...registered, ...others];
}

/** Markdown; `columns` names the back-ends in the order of `speeds`. */
export function formatTable(rows: readonly Measured[], columns: readonly string[]): string {
  const head = ['type', 'bits', 'weights off by', 'product off by'];
  for (const name of columns) head.push(`${name}: held bits`, 'GB/s', 'GFLOP/s', 'kernel off by');
  const lines = rows.map(({ entry, weightError, productError, speeds }) => [
    entry.name,
    short(entry.bits),
    percent(weightError),
    percent(productError),
    ...speeds.flatMap((s) =>
      typeof s === 'string'
        ? ['–', '–', '–', '–']
        : [short(s.heldBits), s.gbps.toFixed(1), s.gflops.toFixed(1), percent(s.productError)],
    ),
  ]);
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), `|${head.map(() => '---|').join('')}`, ...lines.map(line)].join('\n');
}

const short = (x: number) => x.toFixed(3).replace(/\.?0+$/, '');

function percent(share: number | undefined): string {
  if (share === undefined) return '–';
  if (share === 0) return '0';
  return `${share < 0.1 ? (100 * share).toPrecision(2) : (100 * share).toFixed(0)} %`;
}

export const TABLE_START = '<!-- formats -->';
export const TABLE_END = '<!-- /formats -->';

/** `document` with another table between the marks. */
export function withTable(document: string, table: string): string {
  const [start, end] = [document.indexOf(TABLE_START), document.indexOf(TABLE_END)];
  if (start < 0 || end < start) throw new Error(`expected ${TABLE_START} and ${TABLE_END} in the document`);
  return `${document.slice(0, start)}${TABLE_START}\n${table}\n${document.slice(end)}`;
}
