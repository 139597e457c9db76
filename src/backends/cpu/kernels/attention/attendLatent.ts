/** Values that are the first entries of the keys, as in latent attention: every cached row is read for both at once. */
import type { V128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/function.ts';
import { f32x4, i8x16, i32, i32x4, v128 } from '../../wasm/ops.ts';
import type { Tile } from './attendTile.ts';
import { CHUNK, SCRATCH, STEP_BYTES } from './layout.ts';
import { VECTORS } from './tile.ts';

/** Dimensions that are mixed together. */
const DIMS = 4;

/**
 * Adds the weighted values to the outputs of `n` queries. Positions lie in the lanes of the keys: each lane sums eight of
 * them, then the lanes are added. In 16-bit caches a weight meets one half of a pair at a time; 8 · 8191 · 32767 < 2³¹.
 */
export function mixKeys(t: Tile, n: number, query: Local<'i32'>, keys: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const pk = f.i32('pk', keys);
  const halfBytes = f.i32('halfBytes', i32.mul(t.a.keySteps, STEP_BYTES));
  const po = f.i32('po', i32.add(t.output, i32.mul(query, t.outputStride)));
  const quads = f.i32('quads', i32.shrU(i32.add(t.a.valueDim, DIMS - 1), 2));
  const quad = f.i32('quad');
  const valid = f.v128('valid', i32x4.splat(t.valid));
  const factor = (q: number, at: number) => f.v128('factor', v128.load32Splat(t.scratch, SCRATCH.factors + 8 * q + at));
  const factors = Array.from({ length: n }, (_, q) => ({ old: factor(q, 0), fresh: factor(q, 4) }));
  f.for(quad, 0, quads, 1, () => {
    const sums = factors.map(() => Array.from({ length: DIMS }, () => f.v128('sum', v128.zero())));
    const p = f.i32('p', pk);
    for (let half = 0; half < 2; half++) {
      for (let v = 0; v < VECTORS; v++) {
        if (t.kind === 'f32') addFloats(t, p, half * VECTORS + v, v, valid, sums);
        else addPairs(t, p, half * VECTORS + v, v, sums);
      }
      p.inc(halfBytes);
    }
    factors.forEach(({ old, fresh }, q) => {
      const lanes = t.kind === 'f32' ? sums[q]! : sums[q]!.map((sum) => f.v128('lanes', f32x4.convertI32x4S(sum)));
      const total = addLanes(f, lanes);
      const target = q ? f.i32('target', i32.add(po, i32.mul(t.outputStride, q))) : po;
      f.v128Store(target, m.madd(v128.load(target), old, m.mul(total, fresh)));
    });
    pk.inc(t.kind === 'f32' ? DIMS * STEP_BYTES : (DIMS / 2) * STEP_BYTES);
    po.inc(16);
  });
}

/** Four positions from `4 * vector` on; entries that no position has yet count as zero. */
function addFloats(
  t: Tile,
  p: Local<'i32'>,
  vector: number,
  v: number,
  valid: Local<'v128'>,
  sums: Local<'v128'>[][],
): void {
  const f = t.f;
  const positions = Int32Array.from({ length: 4 }, (_, i) => 4 * vector + i);
  const used = f.v128('used', i32x4.ltS(v128.const(new Uint8Array(positions.buffer)), valid));
  const weights = sums.map((_, q) =>
    f.v128('weight', v128.load(t.scratch, SCRATCH.weights + q * 4 * CHUNK + 16 * vector)),
  );
  for (let d = 0; d < DIMS; d++) {
    const x = f.v128('x', v128.and(v128.load(p, d * STEP_BYTES + 16 * v), used));
    sums.forEach((row, q) => {
      row[d]!.set(t.m.madd(x, weights[q]!, row[d]!));
    });
  }
}

function addPairs(t: Tile, p: Local<'i32'>, vector: number, v: number, sums: Local<'v128'>[][]): void {
  const f = t.f;
  const even = sums.map((_, q) =>
    f.v128('even', v128.load16x4U(t.scratch, SCRATCH.weights + q * 4 * CHUNK + 8 * vector)),
  );
  const odd = even.map((weights) => f.v128('odd', i32x4.shl(weights, 16)));
  for (let step = 0; step < DIMS / 2; step++) {
    const x = f.v128('x', v128.load(p, step * STEP_BYTES + 16 * v));
    sums.forEach((row, q) => {
      const [first, second] = [row[2 * step]!, row[2 * step + 1]!];
      first.set(i32x4.add(first, i32x4.dotI16x8S(x, even[q]!)));
      second.set(i32x4.add(second, i32x4.dotI16x8S(x, odd[q]!)));
    });
  }
}

/** The sums of the lanes of four vectors: `(0 + 2) + (1 + 3)` of each. */
function addLanes(f: FunctionBuilder, [a, b, c, d]: readonly Local<'v128'>[]): V128 {
  const low = [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23];
  const high = low.map((i) => i + 8);
  const pairs = (x: Local<'v128'>, y: Local<'v128'>) =>
    f.v128('pairs', f32x4.add(i8x16.shuffle(x, y, low), i8x16.shuffle(x, y, high)));
  const [first, second] = [pairs(a!, b!), pairs(c!, d!)];
  const front = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
  return f32x4.add(
    i8x16.shuffle(first, second, front),
    i8x16.shuffle(
      first,
      second,
      front.map((i) => i + 8),
    ),
  );
}
