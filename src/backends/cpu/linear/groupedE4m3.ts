import { CODE_VALUES } from '../../../quant/codes.ts';
import { f32x4, i32, v128 } from '../wasm/ops.ts';
import { defineTileKernel, type TileKernel } from './driver.ts';
import { chainedSums, chainedSumTwin, type LoadColumn } from './float.ts';
import { emitGroupedBytes, type GroupedFormat, groupedBytes, groupsOfRow, sizesOf } from './grouped.ts';
import { E4M3_PLACED, placeE4m3 } from './groupedCodes.ts';
import { ACTIVATION_SCALE, QUADS } from './layout.ts';

/** Numbers are not brought to their true size, and activations come with a factor. */
const RESULT = 1 / (E4M3_PLACED * ACTIVATION_SCALE);

/** Sums of 8 rows × `n` tokens over E4M3 codes: those of a group of columns meet its scale when they are complete. */
export function e4m3Tile(format: GroupedFormat, n: number): TileKernel {
  const { header, stride } = sizesOf(format);
  return defineTileKernel(`${format.name}.summed`, n, {
    groupBytes: (columns) => emitGroupedBytes(format, columns),
    emitTile(f, p, _columns, ctx) {
      const totals = Array.from({ length: n }, (_, t) => f.v128s(`total${t}_`, QUADS));
      const bits = f.v128('bits');
      const scales = f.i32('scales');
      const endOfGroup = f.i32('endOfGroup', p.end);
      const load: LoadColumn = (offset, w) => placeE4m3(f, p.pw, offset, bits, w);
      const sums = chainedSums(f, n, stride, load, p, endOfGroup, ctx);
      for (const total of totals.flat()) total.set(v128.zero());
      f.doWhile(
        () => {
          scales.set(p.pw);
          p.pw.inc(header);
          if (format.group) {
            endOfGroup.set(i32.add(p.pw, format.group * stride));
            f.if(i32.gtU(endOfGroup, p.end), () => endOfGroup.set(p.end));
          }
          sums.emit().forEach((row, t) => {
            row.forEach((sum, quad) => {
              const total = totals[t]![quad]!;
              const product = f32x4.mul(sum, f.inMemory.f32x4(RESULT));
              total.set(ctx.madd(product, v128.load(scales, 16 * quad), total));
            });
          });
        },
        i32.ltU(p.pw, p.end),
      );
      return totals;
    },
    sumTwin(m, a, { group, row, tile, token, copy }) {
      const inputs = ((a.x >>> 0) + copy) / 4 + tile * n * a.columns + token;
      const width = format.group || a.columns;
      let at = (a.w >>> 0) + group * groupedBytes(format, a.columns);
      let total = 0;
      for (let g = 0; g < groupsOfRow(format, a.columns); g++) {
        const first = g * width;
        const count = Math.min(width, a.columns - first);
        const scale = m.f32[(at >>> 2) + row]!;
        const codes = at + header + row;
        const sum = chainedSumTwin(
          n,
          count,
          (k) => CODE_VALUES.e4m3[m.u8[codes + k * stride]!]! * E4M3_PLACED,
          (k) => m.f32[inputs + (first + k) * n]!,
        );
        total = Math.fround(total + Math.fround(Math.fround(sum * RESULT) * scale));
        at += header + count * stride;
      }
      return total;
    },
  });
}
