import type { OptionalOps } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import { kernels, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { bindMatrix, dispatchParts, putMatrix } from '../linear/record.ts';
import { SLAB } from '../linear/repack.ts';
import { TILE } from '../linear/tile.ts';
import { dataOf, type GpuWeight } from '../linear/weight.ts';

/** Lanes of the one workgroup that sorts rows by expert. */
const SORT_LANES = 256;
/** With fewer rows an expert on average, each row reads its expert's matrix by itself. */
const ROWS_PER_EXPERT = 4;

/**
 * Sorts `pairs` rows by expert: `plan` becomes a list of tiles (expert, first place in the order, rows), `tiles` of them
 * and an empty one, and behind it the order itself. `capacity` experts are counted in workgroup memory.
 */
function sortSource(capacity: number): KernelSource {
  return {
    label: `sort by expert, ${capacity}`,
    reads: [['ids', 'i32']],
    writes: [['plan', 'u32']],
    numbers: [
      ['pairs', 'u32'],
      ['experts', 'u32'],
      ['tiles', 'u32'],
    ],
    workgroup: [SORT_LANES, 1, 1],
    declarations: `
var<workgroup> counts: array<atomic<u32>, ${capacity}>;
fn set_tile(i: u32, expert: u32, start: u32, count: u32) {
  set_plan(3u * i, expert);
  set_plan(3u * i + 1u, start);
  set_plan(3u * i + 2u, count);
}`,
    body: `
for (var e = li; e < p.experts; e += ${SORT_LANES}u) { atomicStore(&counts[e], 0u); }
workgroupBarrier();
for (var i = li; i < p.pairs; i += ${SORT_LANES}u) {
  let e = u32(ids(i));
  if (e < p.experts) { atomicAdd(&counts[e], 1u); }
}
workgroupBarrier();
if (li == 0u) {
  var place = 0u;
  var tile = 0u;
  for (var e = 0u; e < p.experts; e++) {
    let count = atomicLoad(&counts[e]);
    atomicStore(&counts[e], place);
    for (var done = 0u; done < count; done += ${TILE}u) {
      set_tile(tile, e, place + done, min(${TILE}u, count - done));
      tile++;
    }
    place += count;
  }
  for (; tile <= p.tiles; tile++) { set_tile(tile, 0u, 0u, 0u); }
}
workgroupBarrier();
for (var i = li; i < p.pairs; i += ${SORT_LANES}u) {
  let e = u32(ids(i));
  if (e < p.experts) { set_plan(3u * p.tiles + 3u + atomicAdd(&counts[e], 1u), i); }
}
`,
  };
}

/** Products with the matrices of experts whose numbers only the device knows. */
export function expertOps(
  host: OpHost,
  prepared: (x: Tensor, w: GpuWeight, out: Tensor) => Tensor,
  quantized: (x: Tensor, w: GpuWeight) => Tensor,
): Required<Pick<OptionalOps, 'linearExperts'>> {
  const { recorder } = host;
  const sorts = kernels(host, sortSource);
  return {
    linearExperts(out, x, weight, experts, expertCount) {
      const w = dataOf(weight);
      const features = weight.shape[0] / expertCount;
      const pairs = experts.size;
      const perRow = pairs / x.rowCount;
      const capacity = Math.max(64, 2 ** Math.ceil(Math.log2(expertCount)));
      if (pairs < ROWS_PER_EXPERT * expertCount || 4 * capacity > host.gpu.facts.sharedBytes) {
        const source = prepared(x, w, out);
        for (const piece of w.pieces) {
          recorder.start(piece.kernels.expert()).bind(source);
          bindMatrix(recorder, piece).bind(experts).bind(out);
          putMatrix(recorder, w, piece, features).u(pairs).u(perRow);
          dispatchParts(host, Math.ceil(features / SLAB), pairs);
        }
        return;
      }
      // Every expert may leave one tile partly empty.
      const tiles = Math.floor(pairs / TILE) + Math.min(expertCount, pairs);
      const plan = host.scratch(1, 3 * (tiles + 1) + pairs);
      recorder.start(sorts(capacity)).bind(experts).bind(plan).u(pairs).u(expertCount).u(tiles).dispatch(1);
      let floats: Tensor | undefined;
      let codes: Tensor | undefined;
      for (const piece of w.pieces) {
        const source = piece.kernels.int8 ? (codes ??= quantized(x, w)) : (floats ??= prepared(x, w, out));
        recorder.start(piece.kernels.expertTile()).bind(source);
        bindMatrix(recorder, piece).bind(plan).bind(out);
        putMatrix(recorder, w, piece, features).u(tiles).u(perRow);
        dispatchParts(host, Math.ceil(features / TILE), tiles);
        recorder.heavy();
      }
    },
  };
}
