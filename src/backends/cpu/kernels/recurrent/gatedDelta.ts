import { defineKernel } from '../../kernel.ts';
import { f32x4, i32, v128 } from '../../wasm/ops.ts';
import type { Lanes } from '../lanes.ts';
import { scalarLanes, vectorLanes } from '../lanes.ts';
import { expNegative, sigmoid, softplus } from '../math.ts';
import { reduceTwin, sumRow } from '../rows.ts';
import { forColumnGroups, forUnits, forUnitsTwin, SEQUENCE_FIELDS } from './units.ts';

/** Decay of the state, and how strongly it is corrected. */
function gatesOf<V, M>(m: Lanes<V, M>, b: V, a: V, bias: V, decay: V): { fade: V; strength: V } {
  const step = softplus(m, m.let(m.add(a, bias)));
  return { fade: m.let(expNegative(m, m.let(m.mul(step, decay)))), strength: m.let(sigmoid(m, b)) };
}

function inverseLength<V, M>(m: Lanes<V, M>, power: V, eps: V): V {
  return m.let(m.div(m.const(1), m.sqrt(m.add(power, eps))));
}

/**
 * The gated delta rule, see `OptionalOps.gatedDelta`. `gates` points at the first column that takes part, its rows lie
 * `gateStride` floats apart. Threads share the value heads of all sequences. Keys and queries stay as they are: what their
 * normalisation divides by is multiplied into the sums.
 */
export const gatedDelta = defineKernel({
  name: 'gatedDelta',
  fields: {
    ...{ out: 'i32', x: 'i32', gates: 'i32', state: 'i32', decay: 'i32', bias: 'i32' },
    ...SEQUENCE_FIELDS,
    ...{ gateStride: 'i32', heads: 'i32', share: 'i32', keyHeads: 'i32', keyDim: 'i32', valueDim: 'i32' },
    cyclic: 'i32',
    ...{ scale: 'f32', eps: 'f32' },
  },
  emit(f, a, ctx) {
    const m = vectorLanes(f, ctx);
    const bytes = f.i32('bytes', i32.shl(a.valueDim, 2));
    const keyBytes = f.i32('keyBytes', i32.shl(a.keyDim, 2));
    const inner = f.i32('inner', i32.mul(a.heads, bytes));
    const keys = f.i32('keys', i32.mul(a.keyHeads, keyBytes));
    const rowBytes = f.i32('rowBytes', i32.add(inner, i32.shl(keys, 1)));
    const [scale, eps] = [f.v128('scale', f32x4.splat(a.scale)), f.v128('eps', f32x4.splat(a.eps))];
    const [row, n, px, py] = [f.i32('row'), f.i32('n'), f.i32('px'), f.i32('py')];
    const [pState, ps, pk, pq] = [f.i32('pState'), f.i32('ps'), f.i32('pk'), f.i32('pq')];
    forUnits(f, ctx, a, i32.mul(a.keyDim, bytes), ({ head, first, end, state }) => {
      const at = f.i32('ofHead', i32.shl(head, 2));
      const of = (name: string, p: typeof at) => f.v128(name, v128.load32Splat(i32.add(p, at)));
      const [bias, decay] = [of('bias', a.bias), of('decay', a.decay)];
      const keyHead = i32.select(a.cyclic, i32.remU(head, a.keyHeads), i32.divU(head, a.share));
      const ofKey = f.i32('ofKey', i32.mul(keyHead, keyBytes));
      f.for(row, first, end, 1, () => {
        const gate = f.i32('gate', i32.add(i32.add(a.gates, at), i32.shl(i32.mul(row, a.gateStride), 2)));
        const b = f.v128('b', v128.load32Splat(gate));
        const step = f.v128('a', v128.load32Splat(i32.add(gate, i32.shl(a.heads, 2))));
        const { fade, strength } = gatesOf(m, b, step, bias, decay);
        const own = f.i32('own', i32.add(a.x, i32.mul(row, rowBytes)));
        const query = f.i32('query', i32.add(own, ofKey));
        const key = f.i32('key', i32.add(query, keys));
        const power = (from: typeof key) => {
          pk.set(from);
          return sumRow(f, pk, keyBytes, (sum, v) => m.madd(v, v, sum));
        };
        const keyScale = inverseLength(m, power(key), eps);
        const queryScale = m.let(m.mul(inverseLength(m, power(query), eps), scale));
        const knownScale = m.let(m.mul(fade, keyScale));
        px.set(i32.add(i32.add(own, i32.shl(keys, 1)), i32.mul(head, bytes)));
        py.set(i32.add(i32.add(a.out, i32.mul(row, inner)), i32.mul(head, bytes)));
        pState.set(state);
        forColumnGroups(f, bytes, [px, py, pState], (parts) => {
          const sums = parts.map(() => f.v128('sum', v128.zero()));
          ps.set(pState);
          pk.set(key);
          f.for(n, 0, a.keyDim, 1, () => {
            const k = f.v128('k', v128.load32Splat(pk));
            for (const [i, p] of parts.entries()) sums[i]!.set(m.madd(p.load(ps), k, sums[i]!));
            ps.inc(bytes);
            pk.inc(4);
          });
          const changes = parts.map((p, i) => {
            const missing = m.sub(p.load(px), m.mul(knownScale, sums[i]!));
            sums[i]!.set(m.mul(m.mul(strength, missing), keyScale));
            return sums[i]!;
          });
          const ys = parts.map(() => f.v128('y', v128.zero()));
          ps.set(pState);
          pk.set(key);
          pq.set(query);
          f.for(n, 0, a.keyDim, 1, () => {
            const k = f.v128('k', v128.load32Splat(pk));
            const q = f.v128('q', v128.load32Splat(pq));
            parts.forEach((p, i) => {
              const s = p.load(ps);
              s.set(m.madd(fade, s, m.mul(k, changes[i]!)));
              p.store(ps, s);
              ys[i]!.set(m.madd(s, q, ys[i]!));
            });
            ps.inc(bytes);
            pk.inc(4);
            pq.inc(4);
          });
          for (const [i, p] of parts.entries()) p.store(py, m.mul(ys[i]!, queryScale));
        });
      });
    });
  },
  twin(memory, a, tid, nt) {
    const m = scalarLanes;
    const { f32 } = memory;
    const { heads, keyHeads, keyDim, valueDim } = a;
    const keys = keyHeads * keyDim;
    const word = (address: number) => address >>> 2;
    forUnitsTwin(memory, a, keyDim * valueDim, tid, nt, ({ head, first, end, state }) => {
      for (let row = first; row < end; row++) {
        const gate = word(a.gates) + row * a.gateStride + head;
        const bias = f32[word(a.bias) + head]!;
        const { fade, strength } = gatesOf(m, f32[gate]!, f32[gate + heads]!, bias, f32[word(a.decay) + head]!);
        const own = word(a.x) + row * (2 * keys + heads * valueDim);
        const query = own + (a.cyclic ? head % keyHeads : Math.floor(head / a.share)) * keyDim;
        const key = query + keys;
        const power = (from: number) =>
          reduceTwin(keyDim, 0, (sum, i) => m.madd(f32[from + i]!, f32[from + i]!, sum), m.add);
        const keyScale = inverseLength(m, power(key), a.eps);
        const queryScale = m.mul(inverseLength(m, power(query), a.eps), a.scale);
        for (let d = 0; d < valueDim; d++) {
          let sum = 0;
          for (let n = 0; n < keyDim; n++) sum = m.madd(f32[state + n * valueDim + d]!, f32[key + n]!, sum);
          const missing = m.sub(f32[own + 2 * keys + head * valueDim + d]!, m.mul(m.mul(fade, keyScale), sum));
          const change = m.mul(m.mul(strength, missing), keyScale);
          let y = 0;
          for (let n = 0; n < keyDim; n++) {
            const cell = state + n * valueDim + d;
            f32[cell] = m.madd(fade, f32[cell]!, m.mul(f32[key + n]!, change));
            y = m.madd(f32[cell]!, f32[query + n]!, y);
          }
          f32[word(a.out) + (row * heads + head) * valueDim + d] = m.mul(y, queryScale);
        }
      }
    });
  },
});
