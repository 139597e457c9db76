import type { StorageType } from '../core/dtype.ts';
import { codeBits, type Grouping, groupedRow } from '../core/grouped.ts';
import { CODE_VALUES } from './codes.ts';
import type { QuantFormat } from './format.ts';

/** The format of rows that `groupedType` describes. They are made by `src/quant/checkpoint`, so nothing packs them. */
export function groupedFormat(type: StorageType & { readonly grouping: Grouping }): QuantFormat {
  const { grouping, blockSize: columns } = type;
  return {
    type,
    unpack(bytes, at, out, outAt, rows) {
      for (let row = 0; row < rows; row++) {
        unpackRow(grouping, columns, bytes, at + row * type.blockBytes, out, outAt + row * columns);
      }
    },
  };
}

function unpackRow(g: Grouping, columns: number, bytes: Uint8Array, at: number, out: Float32Array, o: number): void {
  const layout = groupedRow(g, columns);
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, layout.bytes);
  const values = CODE_VALUES[g.code];
  const nibbles = codeBits(g.code) === 4;
  const codes = at + layout.codes;
  let scale = 0;
  let bias = 0;
  let until = 0;
  for (let k = 0, group = 0; k < columns; k++) {
    if (g.indexed || k === until) {
      if (g.indexed) group = view.getUint16(layout.index + 2 * k, true);
      scale = view.getFloat32(4 * group, true);
      if (g.bias) bias = view.getFloat32(layout.biases + 4 * group, true);
      if (!g.indexed) group++;
      until += g.group;
    }
    const code = nibbles ? (bytes[codes + (k >> 1)]! >> (4 * (k & 1))) & 15 : bytes[codes + k]!;
    const product = Math.fround(values[code]! * scale);
    out[o + k] = g.bias ? product + bias : product;
  }
}
