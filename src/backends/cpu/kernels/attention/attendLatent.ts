/**
 * Values that are the first entries of the keys, as in latent attention. Keys lie position beside position, values
 * dimension beside dimension: before the queries of a tile meet a chunk, the part of its keys that is values is turned
 * around, into scratch memory.
 */
import type { V128 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/function.ts';
import { i8x16, i32, v128 } from '../../wasm/ops.ts';
import type { Tile } from './attendTile.ts';
import { groupBytesOf } from './emit.ts';
import { type CacheKind, stepBytesOf, WIDE } from './layout.ts';

/** Steps of the keys that are turned together, and how many vectors hold a step. */
const TURNED: Readonly<Record<CacheKind, { readonly steps: number; readonly vectors: number }>> = {
  f32: { steps: 4, vectors: 4 },
  i16: { steps: 2, vectors: 4 },
  i8: { steps: 4, vectors: 2 },
};

/** Dimensions that come out together: a vector for every position, or pair of positions. */
const dimsOf = (kind: CacheKind) => TURNED[kind].steps * (kind === 'f32' ? 1 : 2);

/** Clears what no entry of the keys is written to: outputs behind `valueDim` are summed all the same. */
export function beginTurned(t: Tile): void {
  const { f, a } = t;
  t.turned.set(i32.add(t.totals, i32.mul(t.queries, t.outputStride)));
  f.if(i32.and(a.valueDim, WIDE - 1), () => f.memoryFill(t.turned, 0, i32.mul(a.valueGroups, groupBytesOf(t.kind))));
}

export function turnKeys(t: Tile, keys: Local<'i32'>): void {
  const { f, kind, a } = t;
  const { steps, vectors } = TURNED[kind];
  const dims = dimsOf(kind);
  const stepBytes = stepBytesOf(kind);
  const perGroup = WIDE / dims;
  // Bytes of 16 dimensions of one position, or of one pair.
  const rowBytes = 16 * perGroup;
  const halfBytes = f.i32('halfBytes', i32.mul(a.keySteps, stepBytes));
  const unit = f.i32('unit');
  const source = f.i32('source', keys);
  const target = f.i32('target');
  f.for(unit, 0, i32.divU(i32.add(a.valueDim, dims - 1), dims), 1, () => {
    const group = i32.mul(i32.divU(unit, perGroup), groupBytesOf(kind));
    target.set(i32.add(t.turned, i32.add(group, i32.mul(i32.remU(unit, perGroup), 16))));
    const p = f.i32('p', source);
    for (let half = 0; half < 2; half++) {
      for (let v = 0; v < vectors; v++) {
        const read = Array.from({ length: steps }, (_, s) => f.v128('x', v128.load(p, s * stepBytes + 16 * v)));
        turn(t, read).forEach((row, i) => {
          f.v128Store(target, row, ((half * vectors + v) * steps + i) * rowBytes);
        });
      }
      p.inc(halfBytes);
    }
    source.inc(steps * stepBytes);
  });
}

/** Of positions in the lanes of each vector, one vector for every position or pair of positions. */
function turn(t: Tile, read: readonly Local<'v128'>[]): readonly V128[] {
  const { f, kind } = t;
  if (kind === 'f32') return turnWords(t, read);
  // The two positions of a pair come together, for one dimension after the other.
  const size = kind === 'i16' ? 2 : 1;
  const paired = swapMiddle(size);
  const pairs = read.map((x) => f.v128('pairs', i8x16.shuffle(x, x, paired)));
  if (kind === 'i8') return turnWords(t, pairs);
  const [a, b] = pairs as [Local<'v128'>, Local<'v128'>];
  return [i8x16.shuffle(a, b, merged(8, 0)), i8x16.shuffle(a, b, merged(8, 1))];
}

/** Four vectors of four words, turned. */
function turnWords({ f }: Tile, read: readonly Local<'v128'>[]): readonly V128[] {
  const [a, b, c, d] = read as [Local<'v128'>, Local<'v128'>, Local<'v128'>, Local<'v128'>];
  const merge = (x: Local<'v128'>, y: Local<'v128'>, half: number) =>
    f.v128('merged', i8x16.shuffle(x, y, merged(4, half)));
  return [0, 1].flatMap((half) => {
    const [first, second] = [merge(a, b, half), merge(c, d, half)];
    return [0, 1].map((part) => i8x16.shuffle(first, second, merged(8, part)));
  });
}

/** Lanes of `bytes` bytes from either half of two vectors, by turns. */
function merged(bytes: number, half: number): number[] {
  return Array.from({ length: 16 }, (_, i) => {
    const lane = Math.floor(i / bytes);
    return (lane % 2) * 16 + 8 * half + Math.floor(lane / 2) * bytes + (i % bytes);
  });
}

/** Of every four lanes of `bytes` bytes, the second and the third change places. */
function swapMiddle(bytes: number): number[] {
  return Array.from({ length: 16 }, (_, i) => {
    const lane = Math.floor(i / bytes);
    const from = [0, 2, 1, 3][lane % 4]!;
    return (lane - (lane % 4) + from) * bytes + (i % bytes);
  });
}
