import { defineKernel, split, splitRange } from '../kernel.ts';
import type { F32, V128 } from '../wasm/expr.ts';
import type { Local } from '../wasm/function.ts';
import { f32, f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../wasm/ops.ts';
import { GATHER_FIELDS } from './gather.ts';
import { type CodeFormat, codeOffsets, PAIR } from './kquant.ts';
import { codeReader, stepOf, VECTOR_STRIDE } from './kquantCodes.ts';
import { numberOf, runMinimumOf, runScaleOf, scaleOf } from './kquantTwin.ts';
import { GROUP } from './layout.ts';

/** `y[i] = W[ids[i]]` as floats, for the ids that fall into the section; the arguments are those of `gather.ts`. */
export function codeGatherKernel(format: CodeFormat) {
  const offsets = codeOffsets(format);
  const pairs = format.block / PAIR;
  return defineKernel({
    name: `gather.${format.name}`,
    fields: GATHER_FIELDS,
    emit(f, { w, columns, first, rows, ids, count, y }, ctx) {
      const { from, to } = split(f, count, ctx);
      const groupBytes = f.i32('groupBytes', i32.mul(i32.shrU(columns, Math.log2(format.block)), offsets.bytes));
      const i = f.i32('i');
      const row = f.i32('row');
      const block = f.i32('block');
      const end = f.i32('end');
      const target = f.i32('target');
      const lane = f.i32('lane');
      const ofScales = f.i32('ofScales');
      const ofRuns = f.i32('ofRuns');
      const ofMinima = f.i32('ofMinima');
      const ofCodes = f.i32('ofCodes');
      const pair = f.i32('pair');
      const pick = f.v128('pick');
      const bytes = f.v128('bytes');
      const scale = f.v128('scale');
      const minimum = f.v128('minimum');
      const d = f.f32('d');
      const dm = f.f32('dm');
      const reader = codeReader(f, format, ctx.variant);

      const loadScale = (offset: number): F32 => {
        if (format.scale === 'f32') return f32.load(ofScales, offset);
        if (format.scale === 'bf16') return f32.reinterpretI32(i32.shl(i32.load16U(ofScales, offset), 16));
        const bits = i32.and(i32.shl(i32.load16S(ofScales, offset), 13), 0x8fffe000);
        return f32.mul(f32.reinterpretI32(bits), 2 ** 112);
      };
      const startRun = (run: number) => {
        const at = offsets.scales + run * GROUP;
        const raw = format.minimum ? i32.load8U(ofRuns, at) : i32.load8S(ofRuns, at);
        const code = format.minimum === 'nibbles' ? i32.and(raw, 15) : raw;
        scale.set(f32x4.splat(f32.mul(d, f32.convertI32S(code))));
        if (!format.minimum) return;
        const low =
          format.minimum === 'nibbles' ? i32.shrU(i32.load8U(ofRuns, at), 4) : i32.load8U(ofMinima, offsets.minima);
        minimum.set(f32x4.splat(f32.mul(dm, f32.convertI32S(low))));
      };
      // Minima of bytes belong to runs of 32 columns, two runs side by side.
      const minimaOf = (run: Local<'i32'>) => {
        const ofRow = i32.add(i32.add(block, i32.shl(row, 1)), i32.and(run, 1));
        return i32.add(ofRow, i32.shl(i32.shrU(run, 1), 4));
      };
      /** The numbers of a book for the codes of the row in a step: from four tables of their bytes. */
      const numbers = (step: number, book: Float32Array): V128 => {
        bytes.set(i8x16.swizzle(reader.codes(0, step, ofCodes, offsets.codes), pick));
        bytes.set(i8x16.shuffle(bytes, bytes, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]));
        const ofBook = new Uint8Array(book.buffer, book.byteOffset, book.byteLength);
        return [0, 1, 2, 3]
          .map((i): V128 => {
            const plane = f.pooled.bytes(Array.from(book, (_, code) => ofBook[4 * code + i]!));
            return v128.and(i8x16.swizzle(plane, bytes), f.pooled.i32x4((0xff << (8 * i)) | 0));
          })
          .reduce((a, b) => v128.or(a, b));
      };
      /** The four values of the row in a step. */
      const values = (step: number): V128 =>
        format.book ? numbers(step, format.book.numbers) : f32x4.convertI32x4S(integers(step));
      const integers = (step: number): V128 => {
        if (format.bits === 8) {
          const at = offsets.codes + step * VECTOR_STRIDE;
          // Columns 0 and 2, then 1 and 3.
          bytes.set(v128.load16Lane(ofCodes, v128.load16Splat(ofCodes, at), 1, at + 2 * GROUP));
          bytes.set(i8x16.shuffle(bytes, bytes, [0, 2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        } else bytes.set(i8x16.swizzle(reader.bytes(0, step, ofCodes, offsets.codes), pick));
        if (format.offset === undefined) return i32x4.extendLowI16x8S(i16x8.extendLowI8x16S(bytes));
        const unsigned = i32x4.extendLowI16x8U(i16x8.extendLowI8x16U(bytes));
        return format.offset ? i32x4.sub(unsigned, f.pooled.i32x4(format.offset)) : unsigned;
      };
      const emitPair = () => {
        reader.startPair();
        if (format.run === 32) startRun(0);
        for (let column = 0; column < PAIR; column += 4) {
          if (format.run === 16 && column % 16 === 0) startRun(column >> 4);
          if (format.scalePerHalf && column % 16 === 0) {
            scale.set(f32x4.splat(loadScale((column >> 4) * offsets.second)));
          }
          const value = f32x4.mul(values(stepOf(format, column)), scale);
          f.v128Store(target, format.minimum ? f32x4.add(value, minimum) : value, 4 * column);
        }
        target.inc(PAIR * 4);
      };

      f.for(i, from, to, 1, () => {
        row.set(i32.sub(i32.load(i32.add(ids, i32.shl(i, 2))), first));
        f.if(i32.ltU(row, rows), () => {
          block.set(i32.add(w, i32.mul(i32.shrU(row, 3), groupBytes)));
          end.set(i32.add(block, groupBytes));
          target.set(i32.add(y, i32.mul(i, i32.shl(columns, 2))));
          row.set(i32.and(row, GROUP - 1));
          lane.set(i32.and(row, 3));
          // Bytes 4 lane … 4 lane + 3.
          pick.set(i32x4.splat(i32.add(i32.mul(lane, 0x04040404), 0x03020100)));
          f.doWhile(
            () => {
              ofScales.set(i32.add(block, i32.shl(row, format.scale === 'f32' ? 2 : 1)));
              ofRuns.set(i32.add(block, row));
              const quad = i32.shrU(row, 2);
              ofCodes.set(
                format.bits === 8
                  ? i32.add(i32.add(block, i32.shl(quad, 3)), i32.shl(lane, 1))
                  : i32.add(block, i32.shl(quad, 4)),
              );
              d.set(loadScale(0));
              if (format.minimum) dm.set(loadScale(offsets.second));
              scale.set(f32x4.splat(d));
              if (format.minimum === 'bias') minimum.set(f32x4.splat(dm));
              if (pairs === 1) emitPair();
              else {
                f.for(pair, 0, pairs, 1, () => {
                  if (format.minimum === 'bytes') ofMinima.set(minimaOf(pair));
                  emitPair();
                  ofCodes.inc(offsets.pair);
                  const runs = format.run ? (PAIR / format.run) * GROUP : 0;
                  ofRuns.inc(runs);
                });
              }
              block.inc(offsets.bytes);
            },
            i32.ltU(block, end),
          );
        });
      });
    },
    twin(m, a, tid, nt) {
      const [from, to] = splitRange(a.count, tid, nt);
      const blocks = a.columns / format.block;
      for (let i = from; i < to; i++) {
        const id = m.i32[(a.ids >>> 2) + i]! - a.first;
        if (id < 0 || id >= a.rows) continue;
        const row = id % GROUP;
        for (let b = 0; b < blocks; b++) {
          const block = (a.w >>> 0) + (Math.floor(id / GROUP) * blocks + b) * offsets.bytes;
          for (let k = 0; k < format.block; k++) {
            const d = scaleOf(m, format, block, row, format.scalePerHalf && k % PAIR >= 16);
            const run = format.run ? Math.floor(k / format.run) : 0;
            const scale = format.run ? Math.fround(d * runScaleOf(m, format, block, row, run)) : d;
            const minimum = format.minimum
              ? Math.fround(scaleOf(m, format, block, row, true) * runMinimumOf(m, format, block, row, run))
              : 0;
            const value = Math.fround(numberOf(m, format, block, row, k) * scale);
            m.f32[(a.y >>> 2) + i * a.columns + b * format.block + k] = value + minimum;
          }
        }
      }
    },
  });
}
