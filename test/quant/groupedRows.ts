/** Rows of codes under group scales, of every kind. */
import { type Grouping, groupedRow } from '../../src/core/grouped.ts';
import { random } from '../cpu/support.ts';

const grouping = (code: Grouping['code'], group: number, bias: boolean, indexed = false): Grouping => ({
  label: 'SOME4',
  ...{ code, group, bias, indexed },
});

/** Groupings and widths: every code, groups that divide the row or not, one group, indexed columns. */
export const GROUPED_CASES: readonly (readonly [string, Grouping, number])[] = [
  ['u4, groups of 32', grouping('u4', 32, true), 96],
  ['u4, a shorter last group', grouping('u4', 32, true), 84],
  ['u4, one group', grouping('u4', 64, true), 64],
  ['u4, indexed', grouping('u4', 3, true, true), 70],
  ['u8, groups of 16', grouping('u8', 16, true), 53],
  ['u8, indexed', grouping('u8', 5, true, true), 37],
  ['i8, one group', grouping('i8', 1000, false), 41],
  ['e4m3, groups of 128', grouping('e4m3', 128, false), 300],
  ['nf4', grouping('nf4', 64, false), 128],
  ['fp4', grouping('fp4', 32, false), 96],
  ['e2m1, groups of 16', grouping('e2m1', 16, false), 48],
  ['e2m1, halves of 32 columns', grouping('e2m1', 16, false), 96],
  ['nf4, a shorter last group', grouping('nf4', 64, false), 98],
  ['u8, groups of 64', grouping('u8', 64, true), 192],
  ['i8, one group of whole blocks', grouping('i8', 96, false), 96],
];

/** Random rows, whose columns belong to the same groups where they are indexed. */
export function storedRows(g: Grouping, columns: number, rows: number, seed: number): Uint8Array {
  const next = random(seed);
  const layout = groupedRow(g, columns);
  const out = new Uint8Array(rows * layout.bytes);
  const view = new DataView(out.buffer);
  const order = Array.from({ length: columns }, () => Math.floor(next() * layout.groups));
  for (let row = 0, at = 0; row < rows; row++, at += layout.bytes) {
    for (let i = 0; i < layout.groups; i++) {
      view.setFloat32(at + 4 * i, (next() - 0.3) * 0.1, true);
      if (g.bias) view.setFloat32(at + layout.biases + 4 * i, next() - 0.5, true);
    }
    if (g.indexed) {
      order.forEach((group, k) => {
        view.setUint16(at + layout.index + 2 * k, group, true);
      });
    }
    for (let i = layout.codes; i < layout.bytes; i++) {
      const byte = Math.floor(next() * 256);
      out[at + i] = g.code === 'e4m3' && (byte & 127) === 127 ? 0 : byte;
    }
  }
  return out;
}
