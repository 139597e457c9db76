import { codeBits } from '../../../core/grouped.ts';
import { defineKernel, split, splitRange } from '../kernel.ts';
import type { Local } from '../wasm/function.ts';
import { f32x4, i8x16, i32, i32x4, v128 } from '../wasm/ops.ts';
import { defineTileKernel, type TileKernel } from './driver.ts';
import { GATHER_FIELDS } from './gather.ts';
import {
  emitGroupedBytes,
  emitGroupsOfRow,
  type GroupedFormat,
  groupedBytes,
  groupedNumber,
  groupsOfRow,
  SCALES,
  sizesOf,
} from './grouped.ts';
import { walkColumns } from './groupedWalk.ts';
import { GROUP, QUADS } from './layout.ts';
import { REPACK_FIELDS } from './repack.ts';

/** Sums of 8 rows × `n` tokens, even and odd columns of a step apart. */
export function groupedTile(format: GroupedFormat, n: number): TileKernel {
  const { step } = sizesOf(format);
  return defineTileKernel(format.name, n, {
    groupBytes: (columns) => emitGroupedBytes(format, columns),
    emitTile(f, p, _columns, ctx) {
      const sums = Array.from({ length: step }, (_, c) =>
        Array.from({ length: n }, (_, t) => f.v128s(`sum${c}_${t}_`, QUADS)),
      );
      for (const sum of sums.flat(2)) sum.set(v128.zero());
      const x = f.v128('x');
      walkColumns(f, format, ctx, p.pw, p.end, {
        exact: false,
        use(quads, column) {
          sums[column]!.forEach((row, t) => {
            x.set(v128.load32Splat(p.px, (column * n + t) * 4));
            row.forEach((sum, quad) => {
              sum.set(ctx.madd(quads[quad]!, x, sum));
            });
          });
        },
        endStep: () => p.px.inc(step * n * 4),
      });
      if (step === 2) {
        sums[0]!.flat().forEach((sum, i) => {
          sum.set(f32x4.add(sum, sums[1]!.flat()[i]!));
        });
      }
      return sums[0]!;
    },
    sumTwin(m, a, { group, row, tile, token, copy }) {
      const inputs = ((a.x >>> 0) + copy) / 4 + tile * n * a.columns + token;
      const first = (a.w >>> 0) + group * groupedBytes(format, a.columns);
      const sums = new Float32Array(step);
      for (let k = 0; k < a.columns; k++) {
        const product = groupedNumber(m, format, a.columns, first, row, k) * m.f32[inputs + k * n]!;
        sums[k % step] = sums[k % step]! + Math.fround(product);
      }
      return step === 2 ? Math.fround(sums[0]! + sums[1]!) : sums[0]!;
    },
  });
}

/** `y[i] = W[ids[i]]`, to the bit. All 8 rows are decoded, and one is kept: few rows are asked for. */
export function groupedGather(format: GroupedFormat) {
  const { step } = sizesOf(format);
  return defineKernel({
    name: `gather.${format.name}`,
    fields: GATHER_FIELDS,
    emit(f, { w, columns, first, rows, ids, count, y }, ctx) {
      const { from, to } = split(f, count, ctx);
      const groupBytes = f.i32('groupBytes', emitGroupedBytes(format, columns));
      const i = f.i32('i');
      const row = f.i32('row');
      const at = f.i32('at');
      const end = f.i32('end');
      const target = f.i32('target');
      const pick = f.v128('pick');
      const second = f.v128('second');
      const chosen = f.v128('chosen');
      f.for(i, from, to, 1, () => {
        row.set(i32.sub(i32.load(i32.add(ids, i32.shl(i, 2))), first));
        f.if(i32.ltU(row, rows), () => {
          at.set(i32.add(w, i32.mul(i32.shrU(row, 3), groupBytes)));
          end.set(i32.add(at, groupBytes));
          target.set(i32.add(y, i32.mul(i, i32.shl(columns, 2))));
          // All bits where the row lies in the second quad; bytes 4 lane … of its quad.
          second.set(i32x4.splat(i32.sub(0, i32.and(i32.shrU(row, 2), 1))));
          pick.set(i32x4.splat(i32.add(i32.mul(i32.and(row, 3), 0x04040404), 0x03020100)));
          walkColumns(f, format, ctx, at, end, {
            exact: true,
            use(quads, column) {
              chosen.set(v128.bitselect(quads[1]!, quads[0]!, second));
              f.v128StoreLane(32, target, i8x16.swizzle(chosen, pick), 0, 4 * column);
            },
            endStep: () => target.inc(4 * step),
          });
        });
      });
    },
    twin(m, a, tid, nt) {
      const [from, to] = splitRange(a.count, tid, nt);
      for (let i = from; i < to; i++) {
        const row = m.i32[(a.ids >>> 2) + i]! - a.first;
        if (row < 0 || row >= a.rows) continue;
        const at = (a.w >>> 0) + Math.floor(row / GROUP) * groupedBytes(format, a.columns);
        for (let k = 0; k < a.columns; k++) {
          m.f32[(a.y >>> 2) + i * a.columns + k] = groupedNumber(m, format, a.columns, at, row % GROUP, k);
        }
      }
    },
  });
}

/** From grouped rows (`src/core/grouped.ts`) to groups of 8 of them. */
export function groupedRepack(format: GroupedFormat) {
  const { step, header, index, stride } = sizesOf(format);
  const bits = codeBits(format.code);
  return defineKernel({
    name: `repack.${format.name}`,
    fields: REPACK_FIELDS,
    emit(f, { source, target, groups, columns }, ctx) {
      const { from, to } = split(f, groups, ctx);
      const perRow = f.i32('perRow', emitGroupsOfRow(format, columns));
      const ofIndex = f.i32('ofIndex', i32.shl(perRow, format.bias ? 3 : 2));
      const ofCodes = f.i32('ofCodes', format.indexed ? i32.add(ofIndex, i32.shl(columns, 1)) : ofIndex);
      const steps = f.i32('steps', i32.shrU(columns, step - 1));
      const rowBytes = f.i32('rowBytes', i32.add(ofCodes, i32.shrU(i32.mul(columns, bits), 3)));
      const group = f.i32('group');
      const first = f.i32('first');
      const scale = f.i32('scale');
      const k = f.i32('k');
      const until = f.i32('until');
      const row = f.i32('row');
      target.inc(i32.mul(from, emitGroupedBytes(format, columns)));
      const eachRow = (start: Local<'i32'>, body: (r: number) => void) => {
        row.set(start);
        for (let r = 0; r < GROUP; r++) {
          body(r);
          if (r < GROUP - 1) row.inc(rowBytes);
        }
      };
      const putHeader = () => {
        const at = f.i32('at', i32.add(first, i32.shl(scale, 2)));
        eachRow(at, (r) => f.i32Store(target, i32.load(row), 4 * r));
        if (format.bias) {
          at.inc(i32.shl(perRow, 2));
          eachRow(at, (r) => f.i32Store(target, i32.load(row), SCALES + 4 * r));
        }
        target.inc(header);
      };
      const putSteps = (last: Local<'i32'>) => {
        f.while(i32.ltU(k, last), () => {
          if (format.indexed) {
            const number = i32.add(i32.add(first, ofIndex), i32.mul(k, 2 * step));
            f.i32Store(target, step === 2 ? i32.load(number) : i32.load16U(number));
          }
          const at = f.i32('at', i32.add(i32.add(first, ofCodes), k));
          eachRow(at, (r) => f.i32Store8(target, i32.load8U(row), index + r));
          target.inc(stride);
          k.inc(1);
        });
      };
      f.for(group, from, to, 1, () => {
        first.set(i32.add(source, i32.mul(group, i32.mul(rowBytes, GROUP))));
        k.set(0);
        until.set(format.indexed || !format.group ? steps : 0);
        f.for(scale, 0, perRow, 1, () => {
          putHeader();
          if (format.indexed) return;
          if (format.group) {
            until.inc(format.group / step);
            f.if(i32.gtU(until, steps), () => until.set(steps));
          }
          putSteps(until);
        });
        if (format.indexed) putSteps(until);
      });
    },
    twin(m, { source, target, groups, columns }, tid, nt) {
      const [from, to] = splitRange(groups, tid, nt);
      const perRow = groupsOfRow(format, columns);
      const ofIndex = perRow * (format.bias ? 8 : 4);
      const ofCodes = ofIndex + (format.indexed ? 2 * columns : 0);
      const rowBytes = ofCodes + (columns * bits) / 8;
      const width = (format.group || columns) / step;
      for (let group = from; group < to; group++) {
        const first = (source >>> 0) + group * GROUP * rowBytes;
        let out = (target >>> 0) + group * groupedBytes(format, columns);
        const put = (at: number, offset: number, count: number) => {
          for (let i = 0; i < count; i++) m.u8[out + offset + i] = m.u8[at + i]!;
        };
        const putHeader = (scale: number) => {
          for (let r = 0; r < GROUP; r++) {
            put(first + r * rowBytes + 4 * scale, 4 * r, 4);
            if (format.bias) put(first + r * rowBytes + 4 * (perRow + scale), SCALES + 4 * r, 4);
          }
          out += header;
        };
        if (format.indexed) for (let scale = 0; scale < perRow; scale++) putHeader(scale);
        for (let k = 0; k < columns / step; k++) {
          if (!format.indexed && k % width === 0) putHeader(k / width);
          if (format.indexed) {
            m.u8.fill(0, out, out + index);
            put(first + ofIndex + 2 * step * k, 0, 2 * step);
          }
          for (let r = 0; r < GROUP; r++) m.u8[out + index + r] = m.u8[first + r * rowBytes + ofCodes + k]!;
          out += stride;
        }
      }
    },
  });
}
