/** The two matrices of an adapter for one weight, out of those of all modules that lie in it. */
import type { Backend, WeightData } from '../backend.ts';
import { storageType } from '../dtype.ts';
import { sizeOf } from '../tensor.ts';
import { Weight } from '../weight.ts';
import type { Codec } from '../weights.ts';
import { readValues } from '../weights.ts';
import type { DevicePair } from './delta.ts';
import type { Factor, WeightPlan } from './plan.ts';

/** `Δ = up · down`, with the scale in `up`: `down` `[rank, in]`, `up` `[out, rank]`; of routed experts one below the other. */
export interface AdapterMatrices {
  readonly down: Float32Array;
  readonly up: Float32Array;
}

/** The rows of `down` that one factor takes: `[at, at + rank)` of those of one expert. */
export interface Placement {
  readonly factor: Factor;
  readonly expert: number;
  readonly at: number;
}

/** Where the factors of a plan stand, in order; those of fused experts once for each expert. */
export function placements({ weight, factors }: WeightPlan): Placement[] {
  const experts = weight.experts?.count ?? 1;
  const used = new Int32Array(experts);
  const all: Placement[] = [];
  for (const factor of factors) {
    const first = factor.place.expert ?? 0;
    const last = factor.fused ? experts : first + 1;
    for (let expert = first; expert < last; expert++) {
      all.push({ factor, expert, at: used[expert]! });
      used[expert] = used[expert]! + factor.rank;
    }
  }
  return all;
}

/**
 * Modules that lie below one another in a weight share its input: their `A` matrices lie below one another, and each `B`
 * stands in its module's rows and in the columns of its `A`.
 */
export async function adapterMatrices(plan: WeightPlan, codec: Codec): Promise<AdapterMatrices> {
  const { weight, rank } = plan;
  const experts = weight.experts?.count ?? 1;
  const width = weight.shape[1];
  const out = weight.shape[0] / experts;
  const down = new Float32Array(experts * rank * width);
  const up = new Float32Array(experts * out * rank);
  let of: Factor | undefined;
  let a: Float32Array = new Float32Array(0);
  let b: Float32Array = a;
  for (const { factor, expert, at } of placements(plan)) {
    if (factor !== of) {
      of = factor;
      a = await readValues(factor.a, codec);
      b = await readValues(factor.b, codec);
    }
    const read = reader(factor, a, b, factor.fused ? { expert, experts } : undefined);
    for (let j = 0; j < factor.rank; j++) {
      const row = (expert * rank + at + j) * width;
      for (let i = 0; i < width; i++) down[row + i] = read.a(j, i);
    }
    let target = expert * out + factor.place.first;
    for (const [from, count] of factor.place.runs) {
      for (let o = from; o < from + count; o++, target++) {
        for (let j = 0; j < factor.rank; j++) up[target * rank + at + j] = factor.scale * read.b(o, j);
      }
    }
  }
  return { down, up };
}

/**
 * Elements of `A` and `B` of one expert. Fused, `A` is `[experts, rank, in]`, and `B` `[out, rank, experts]` with the expert
 * running fastest.
 */
function reader(
  f: Factor,
  a: Float32Array,
  b: Float32Array,
  fused: { readonly expert: number; readonly experts: number } | undefined,
) {
  const { expert, experts } = fused ?? { expert: 0, experts: 1 };
  const width = f.a.shape[1]!;
  const readA = (j: number, i: number): number => a[(expert * f.rank + j) * width + i]!;
  const readB = (o: number, j: number): number => b[(o * f.rank + j) * experts + expert]!;
  if (!f.fused?.swapped) return { a: readA, b: readB };
  return { a: (j: number, i: number) => readB(i, j), b: (o: number, j: number) => readA(j, o) };
}

/** Puts the matrices of a plan on the device, under names that begin with `name`. */
export async function devicePair(
  backend: Backend,
  name: string,
  { weight, rank }: WeightPlan,
  { down, up }: AdapterMatrices,
): Promise<DevicePair> {
  const experts = weight.experts?.count ?? 1;
  const first = await deviceMatrix(backend, `${name}: down`, down, [experts * rank, weight.shape[1]]);
  try {
    return { down: first, up: await deviceMatrix(backend, `${name}: up`, up, [weight.shape[0], rank]) };
  } catch (error) {
    first.dispose();
    throw error;
  }
}

export function disposePair({ down, up }: DevicePair): void {
  down.dispose();
  up.dispose();
}

/** Puts a matrix on the device, exactly. */
export async function deviceMatrix(
  backend: Backend,
  name: string,
  values: Float32Array,
  shape: readonly [number, number],
): Promise<Weight> {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, 4 * sizeOf(shape));
  const stride = 4 * shape[1];
  const data: WeightData = await backend.loadWeight({
    name,
    shape,
    sections: [
      {
        type: storageType('F32'),
        rows: shape[0],
        async readRows(first, rows, target) {
          target.set(bytes.subarray(first * stride, (first + rows) * stride));
        },
      },
    ],
  });
  return new Weight(name, shape, data);
}
