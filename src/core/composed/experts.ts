import { addInto, cast, scaleInto } from '../ops/elementwise.ts';
import type { Tensor } from '../tensor.ts';
import type { Weight } from '../weight.ts';
import { iota } from './basics.ts';

const PLAIN = Object.freeze({});

/** Elements of the intermediate "every expert for every row", which is chunked by rows. */
const MAX_INTERMEDIATE = 2 ** 24;

/** Runs every expert on every row and picks the wanted results: slow, but needs nothing beyond `linear`. */
export function composedLinearExperts(out: Tensor, x: Tensor, w: Weight, experts: Tensor, expertCount: number): void {
  const { backend } = x;
  const rows = x.shape[0] as number;
  const perRow = experts.size / rows;
  const chunk = Math.max(1, Math.floor(MAX_INTERMEDIATE / w.shape[0]));
  const ids = experts.reshape([rows, perRow]);
  for (let start = 0; start < rows; start += chunk) {
    const end = Math.min(rows, start + chunk);
    const n = end - start;
    backend.scope(() => {
      const product = backend.allocRows(n, w.shape[0]);
      // The op itself: what adapters add is for the caller.
      backend.ops.linear(product, x.rows(start, end), w, PLAIN);
      const all = product.reshape([n * expertCount, w.shape[0] / expertCount]);
      const base = scaleInto(iota(backend, n), expertCount).reshape([n, 1]);
      const picks = cast(addInto(cast(ids.rows(start, end), 'f32'), base), 'i32');
      backend.ops.gatherRows(out.rows(start * perRow, end * perRow), all, picks);
    });
  }
}
