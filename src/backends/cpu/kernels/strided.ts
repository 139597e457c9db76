import { defineKernel, split, splitRange } from '../kernel.ts';
import { i32 } from '../wasm/ops.ts';

/** Axes of a strided copy. */
export const COPY_AXES = 6;

/**
 * Copies `[d0, …, d5]` elements of 1, 2 or 4 bytes (`shift` is the logarithm of their size) between two layouts: element
 * `(i0, …, i5)` lies at `Σ i·s` in `x` and `Σ i·t` in `out` (in elements; strides may be 0 or negative). It does slices,
 * concatenations, permutations, repetitions and padding. Threads share the lines along the last axis.
 */
export const stridedCopy = defineKernel({
  name: 'stridedCopy',
  fields: {
    out: 'i32',
    x: 'i32',
    shift: 'i32',
    d0: 'i32',
    d1: 'i32',
    d2: 'i32',
    d3: 'i32',
    d4: 'i32',
    d5: 'i32',
    s0: 'i32',
    s1: 'i32',
    s2: 'i32',
    s3: 'i32',
    s4: 'i32',
    s5: 'i32',
    t0: 'i32',
    t1: 'i32',
    t2: 'i32',
    t3: 'i32',
    t4: 'i32',
    t5: 'i32',
  },
  emit(f, a, ctx) {
    const outer = [
      [a.d4, a.s4, a.t4],
      [a.d3, a.s3, a.t3],
      [a.d2, a.s2, a.t2],
      [a.d1, a.s1, a.t1],
      [a.d0, a.s0, a.t0],
    ] as const;
    const lines = f.i32('lines', i32.mul(i32.mul(i32.mul(a.d0, a.d1), i32.mul(a.d2, a.d3)), a.d4));
    const { from, to } = split(f, lines, ctx);
    const line = f.i32('line');
    const rest = f.i32('rest');
    const px = f.i32('px');
    const po = f.i32('po');
    const end = f.i32('end');
    const contiguous = f.i32('contiguous', i32.and(i32.eq(a.s5, 1), i32.eq(a.t5, 1)));
    const stepX = f.i32('stepX', i32.shl(a.s5, a.shift));
    const stepO = f.i32('stepO', i32.shl(a.t5, a.shift));
    f.for(line, from, to, 1, () => {
      rest.set(line);
      px.set(0);
      po.set(0);
      for (const [size, s, t] of outer) {
        const index = f.i32('index', i32.remU(rest, size));
        px.inc(i32.mul(index, s));
        po.inc(i32.mul(index, t));
        rest.set(i32.divU(rest, size));
      }
      px.set(i32.add(a.x, i32.shl(px, a.shift)));
      po.set(i32.add(a.out, i32.shl(po, a.shift)));
      f.if(
        contiguous,
        () => f.memoryCopy(po, px, i32.shl(a.d5, a.shift)),
        () => {
          end.set(i32.add(po, i32.mul(a.d5, stepO)));
          const run = (move: () => void) =>
            f.doWhile(
              () => {
                move();
                px.inc(stepX);
                po.inc(stepO);
              },
              i32.ne(po, end),
            );
          f.if(
            i32.eq(a.shift, 2),
            () => run(() => f.i32Store(po, i32.load(px))),
            () =>
              f.if(
                a.shift,
                () => run(() => f.i32Store16(po, i32.load16U(px))),
                () => run(() => f.i32Store8(po, i32.load8U(px))),
              ),
          );
        },
      );
    });
  },
  twin(m, a, tid, nt) {
    const memory = a.shift === 2 ? m.u32 : a.shift ? m.u16 : m.u8;
    const outer = [
      [a.d4, a.s4, a.t4],
      [a.d3, a.s3, a.t3],
      [a.d2, a.s2, a.t2],
      [a.d1, a.s1, a.t1],
      [a.d0, a.s0, a.t0],
    ] as const;
    const [from, to] = splitRange(a.d0 * a.d1 * a.d2 * a.d3 * a.d4, tid, nt);
    for (let line = from; line < to; line++) {
      let rest = line;
      let px = a.x >>> a.shift;
      let po = a.out >>> a.shift;
      for (const [size, s, t] of outer) {
        px += (rest % size) * s;
        po += (rest % size) * t;
        rest = Math.floor(rest / size);
      }
      for (let i = 0; i < a.d5; i++) memory[po + i * a.t5] = memory[px + i * a.s5]!;
    }
  },
});

/** Fills `bytes` bytes with a pattern of 4; elements of 1 or 2 bytes are repeated in it. */
export const fill = defineKernel({
  name: 'fill',
  fields: { out: 'i32', bytes: 'i32', pattern: 'i32' },
  emit(f, { out, bytes, pattern }, ctx) {
    const { from, to } = split(f, i32.shrU(bytes, 2), ctx);
    const p = f.i32('p', i32.add(out, i32.shl(from, 2)));
    const end = f.i32('end', i32.add(out, i32.shl(to, 2)));
    f.while(i32.ltU(p, end), () => {
      f.i32Store(p, pattern);
      p.inc(4);
    });
    f.if(i32.eq(i32.add(ctx.tid, 1), ctx.nt), () => {
      f.if(i32.and(bytes, 2), () => {
        f.i32Store16(p, pattern);
        p.inc(2);
      });
      f.if(i32.and(bytes, 1), () => f.i32Store8(p, pattern));
    });
  },
  twin({ u8 }, { out, bytes, pattern }, tid, nt) {
    const [from, to] = splitRange(bytes >>> 2, tid, nt);
    const end = tid === nt - 1 ? bytes : to * 4;
    for (let i = from * 4; i < end; i++) u8[(out >>> 0) + i] = pattern >>> (8 * (i % 4));
  },
});
