import { defineKernel, split, splitRange } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import { f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../wasm/ops.ts';
import { type Block32, codeOf, minimumOf, offsetsOf, scaleOf } from './block32.ts';
import { BLOCK, GROUP, QUADS, STEPS } from './layout.ts';

export const GATHER_FIELDS = {
  /** First group of the section. */
  w: 'i32',
  columns: 'i32',
  /** Number of the section's first row in the matrix, and rows of the section: other ids are left to their own section. */
  first: 'i32',
  rows: 'i32',
  ids: 'i32',
  count: 'i32',
  y: 'i32',
} as const;

/** `y[i] = W[ids[i]]` as floats, for the ids that fall into the section. */
export function gatherKernel(format: Block32) {
  const offsets = offsetsOf(format);
  return defineKernel({
    name: `gather.${format.name}`,
    fields: GATHER_FIELDS,
    emit(f, { w, columns, first, rows, ids, count, y }, ctx) {
      const { from, to } = split(f, count, ctx);
      const groupBytes = f.i32('groupBytes', i32.mul(i32.shrU(columns, 5), offsets.bytes));
      const i = f.i32('i');
      const row = f.i32('row');
      const block = f.i32('block');
      const end = f.i32('end');
      const lane = f.i32('lane');
      const target = f.i32('target');
      const step = f.i32('step');
      const at = f.i32('at');
      const d = f.v128('d');
      const m = f.v128('m');
      const value = (code: V128): V128 => {
        const centred = format.offset ? i32x4.sub(code, f.pooled.i32x4(format.offset)) : code;
        const product = f32x4.mul(f32x4.convertI32x4S(centred), d);
        return format.minimum ? f32x4.add(product, m) : product;
      };
      // Half-precision number `offset + 2 row` of the block in all lanes.
      const half = (offset: number): V128 =>
        f32x4.mul(
          v128.and(
            i32x4.shl(i32x4.splat(i32.load16S(i32.add(block, i32.shl(i32.and(row, GROUP - 1), 1)), offset)), 13),
            f.pooled.i32x4(0x8fffe000),
          ),
          f.pooled.f32x4(2 ** 112),
        );
      f.for(i, from, to, 1, () => {
        row.set(i32.sub(i32.load(i32.add(ids, i32.shl(i, 2))), first));
        f.if(i32.ltU(row, rows), () => {
          block.set(i32.add(w, i32.mul(i32.shrU(row, 3), groupBytes)));
          end.set(i32.add(block, groupBytes));
          target.set(i32.add(y, i32.mul(i, i32.shl(columns, 2))));
          const quad = i32.and(i32.shrU(row, 2), 1);
          const inQuad = i32.and(row, 3);
          lane.set(
            format.bits === 8
              ? i32.add(i32.shl(quad, 3), i32.shl(inQuad, 1))
              : i32.add(i32.shl(quad, 4), i32.shl(inQuad, 2)),
          );
          f.doWhile(
            () => {
              d.set(half(0));
              if (format.minimum) m.set(half(offsets.minimum));
              at.set(i32.add(block, lane));
              const fifth = format.bits === 5 ? f.v128('fifth', v128.load32Zero(at, offsets.fifthBits)) : undefined;
              f.for(step, 0, STEPS, 1, () => {
                const codes = f.v128('codes');
                const store = (bytes: V128, signed: boolean, offset: number) => {
                  const words = signed ? i16x8.extendLowI8x16S(bytes) : i16x8.extendLowI8x16U(bytes);
                  const wide = signed ? i32x4.extendLowI16x8S(words) : i32x4.extendLowI16x8U(words);
                  f.v128Store(target, value(wide), offset);
                };
                if (format.bits === 8) {
                  for (let h = 0; h < 2; h++) {
                    // Pairs (k, k + 2) and (k + 1, k + 3) become four columns in order.
                    const part = (p: number) => offsets.codes + p * QUADS * GROUP;
                    codes.set(v128.load16Lane(at, v128.load16Splat(at, part(2 * h)), 1, part(2 * h + 1)));
                    store(i8x16.shuffle(codes, codes, [0, 2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), true, 64 * h);
                  }
                } else {
                  for (let h = 0; h < 2; h++) {
                    codes.set(v128.load32Zero(at, offsets.codes));
                    codes.set(v128.and(h ? i16x8.shrU(codes, 4) : codes, f.pooled.i8x16(15)));
                    if (fifth) {
                      codes.set(v128.or(codes, v128.and(i16x8.shl(fifth, 4 - h), f.pooled.i8x16(16))));
                    }
                    store(codes, false, 64 * h);
                  }
                  if (fifth) fifth.set(i16x8.shrU(fifth, 2));
                }
                at.inc(offsets.step);
                target.inc(16);
              });
              target.inc(64);
              block.inc(offsets.bytes);
            },
            i32.ltU(block, end),
          );
        });
      });
    },
    twin(memory, a, tid, nt) {
      const [from, to] = splitRange(a.count, tid, nt);
      const blocks = a.columns / BLOCK;
      for (let i = from; i < to; i++) {
        const row = memory.i32[(a.ids >>> 2) + i]! - a.first;
        if (row < 0 || row >= a.rows) continue;
        for (let b = 0; b < blocks; b++) {
          const block = (a.w >>> 0) + (Math.floor(row / GROUP) * blocks + b) * offsets.bytes;
          const r = row % GROUP;
          const d = scaleOf(memory, block, r);
          for (let k = 0; k < BLOCK; k++) {
            const code = codeOf(memory, format, offsets, block, r, k) - format.offset;
            const product = Math.fround(code * d);
            memory.f32[(a.y >>> 2) + i * a.columns + b * BLOCK + k] = format.minimum
              ? product + minimumOf(memory, block, r, offsets)
              : product;
          }
        }
      }
    },
  });
}
