/** The two matrices of an adapter for one weight, out of those of all modules that lie in it. */
import type { Backend, WeightData } from '../backend.ts';
import { storageType } from '../dtype.ts';
import { sizeOf } from '../tensor.ts';
import { Weight } from '../weight.ts';
import type { Codec } from '../weights.ts';
import { readValues } from '../weights.ts';
import type { Factor, WeightPlan } from './plan.ts';

/** `Δ = up · down`, with the scale in `up`: `down` `[rank, in]`, `up` `[out, rank]`; of routed experts one below the other. */
export interface AdapterMatrices {
  readonly down: Float32Array;
  readonly up: Float32Array;
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
  const used = new Int32Array(experts);
  for (const factor of plan.factors) {
    const a = await readValues(factor.a, codec);
    const b = await readValues(factor.b, codec);
    const first = factor.place.expert ?? 0;
    const last = factor.fused ? experts : first + 1;
    for (let e = first; e < last; e++) {
      const at = used[e]!;
      used[e] = at + factor.rank;
      const read = reader(factor, a, b, factor.fused ? { expert: e, experts } : undefined);
      for (let j = 0; j < factor.rank; j++) {
        const row = (e * rank + at + j) * width;
        for (let i = 0; i < width; i++) down[row + i] = read.a(j, i);
      }
      let target = e * out + factor.place.first;
      for (const [from, count] of factor.place.runs) {
        for (let o = from; o < from + count; o++, target++) {
          for (let j = 0; j < factor.rank; j++) up[target * rank + at + j] = factor.scale * read.b(o, j);
        }
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
