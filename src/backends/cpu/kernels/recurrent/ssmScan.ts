import { defineKernel } from '../../kernel.ts';
import { f32x4, i32, v128 } from '../../wasm/ops.ts';
import type { Lanes } from '../lanes.ts';
import { scalarLanes, vectorLanes } from '../lanes.ts';
import { expNegative, softplus } from '../math.ts';
import { forColumnGroups, forUnits, forUnitsTwin, SEQUENCE_FIELDS } from './units.ts';

/** Time step and decay from the row's number `dt`. */
function gatesOf<V, M>(m: Lanes<V, M>, dt: V, bias: V, decay: V, least: V, most: V): { step: V; fade: V } {
  const step = m.let(m.min(m.max(softplus(m, m.let(m.add(dt, bias))), least), most));
  return { step, fade: m.let(expNegative(m, m.let(m.mul(step, decay)))) };
}

/**
 * Mamba 2's scan, see `OptionalOps.ssmScan`. `dt` points at the first column that takes part, its rows lie `dtStride` floats
 * apart. Threads share the heads of all sequences; each walks through its rows with one matrix of the state.
 */
export const ssmScan = defineKernel({
  name: 'ssmScan',
  fields: {
    ...{ out: 'i32', x: 'i32', dt: 'i32', state: 'i32', decay: 'i32', bias: 'i32', skip: 'i32' },
    ...SEQUENCE_FIELDS,
    ...{ dtStride: 'i32', heads: 'i32', share: 'i32', groups: 'i32', headDim: 'i32', stateDim: 'i32' },
    ...{ minStep: 'f32', maxStep: 'f32' },
  },
  emit(f, a, ctx) {
    const m = vectorLanes(f, ctx);
    const bytes = f.i32('bytes', i32.shl(a.headDim, 2));
    const inner = f.i32('inner', i32.mul(a.heads, bytes));
    const keys = f.i32('keys', i32.mul(a.groups, i32.shl(a.stateDim, 2)));
    const rowBytes = f.i32('rowBytes', i32.add(inner, i32.shl(keys, 1)));
    const [least, most] = [f.v128('least', f32x4.splat(a.minStep)), f.v128('most', f32x4.splat(a.maxStep))];
    const [row, n] = [f.i32('row'), f.i32('n')];
    const [px, py, pState] = [f.i32('px'), f.i32('py'), f.i32('pState')];
    const [ps, pb, pc] = [f.i32('ps'), f.i32('pb'), f.i32('pc')];
    forUnits(f, ctx, a, i32.mul(a.stateDim, bytes), ({ head, first, end, state }) => {
      const at = f.i32('ofHead', i32.shl(head, 2));
      const of = (name: string, p: typeof at) => f.v128(name, v128.load32Splat(i32.add(p, at)));
      const [bias, decay, skip] = [of('bias', a.bias), of('decay', a.decay), of('skip', a.skip)];
      const key = f.i32('key', i32.add(inner, i32.mul(i32.divU(head, a.share), i32.shl(a.stateDim, 2))));
      f.for(row, first, end, 1, () => {
        const dt = f.i32('ofStep', i32.add(i32.add(a.dt, at), i32.shl(i32.mul(row, a.dtStride), 2)));
        const { step, fade } = gatesOf(m, f.v128('dt', v128.load32Splat(dt)), bias, decay, least, most);
        const own = f.i32('own', i32.add(a.x, i32.mul(row, rowBytes)));
        px.set(i32.add(own, i32.mul(head, bytes)));
        py.set(i32.add(i32.add(a.out, i32.mul(row, inner)), i32.mul(head, bytes)));
        pState.set(state);
        forColumnGroups(f, bytes, [px, py, pState], (parts) => {
          const xs = parts.map((p) => p.load(px));
          const ys = xs.map((x) => f.v128('y', m.mul(skip, x)));
          const steps = xs.map((x) => f.v128('dx', m.mul(step, x)));
          ps.set(pState);
          pb.set(i32.add(own, key));
          pc.set(i32.add(pb, keys));
          f.for(n, 0, a.stateDim, 1, () => {
            const b = f.v128('b', v128.load32Splat(pb));
            const c = f.v128('c', v128.load32Splat(pc));
            parts.forEach((p, i) => {
              const s = p.load(ps);
              s.set(m.madd(fade, s, m.mul(b, steps[i]!)));
              p.store(ps, s);
              ys[i]!.set(m.madd(s, c, ys[i]!));
            });
            ps.inc(bytes);
            pb.inc(4);
            pc.inc(4);
          });
          for (const [i, p] of parts.entries()) p.store(py, ys[i]!);
        });
      });
    });
  },
  twin(memory, a, tid, nt) {
    const m = scalarLanes;
    const { f32 } = memory;
    const { heads, headDim, stateDim, groups } = a;
    const inner = heads * headDim;
    const width = inner + 2 * groups * stateDim;
    const word = (address: number) => address >>> 2;
    forUnitsTwin(memory, a, stateDim * headDim, tid, nt, ({ head, first, end, state }) => {
      const [bias, decay] = [f32[word(a.bias) + head]!, f32[word(a.decay) + head]!];
      const skip = f32[word(a.skip) + head]!;
      for (let row = first; row < end; row++) {
        const dt = f32[word(a.dt) + row * a.dtStride + head]!;
        const { step, fade } = gatesOf(m, dt, bias, decay, a.minStep, a.maxStep);
        const own = word(a.x) + row * width;
        const key = own + inner + Math.floor(head / a.share) * stateDim;
        for (let d = 0; d < headDim; d++) {
          const x = f32[own + head * headDim + d]!;
          const dx = m.mul(step, x);
          let y = m.mul(skip, x);
          for (let n = 0; n < stateDim; n++) {
            const cell = state + n * headDim + d;
            f32[cell] = m.madd(fade, f32[cell]!, m.mul(f32[key + n]!, dx));
            y = m.madd(f32[cell]!, f32[key + groups * stateDim + n]!, y);
          }
          f32[word(a.out) + row * inner + head * headDim + d] = y;
        }
      }
    });
  },
});
