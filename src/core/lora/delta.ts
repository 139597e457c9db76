/** What adapters add to the products of one weight: `Δ(x) = up (down x)`, each for the rows of its own sequences. */
import { InferenceError } from '../errors.ts';
import { addInto, gatherRows, linear, linearAdd, linearExperts, scatterRows } from '../ops.ts';
import type { Tensor } from '../tensor.ts';
import type { Weight, WeightDelta } from '../weight.ts';
import type { AdapterRows } from './rows.ts';

export interface DevicePair {
  readonly down: Weight;
  readonly up: Weight;
}

export class AdapterDelta implements WeightDelta {
  readonly #rows: AdapterRows;
  readonly #pairs = new Map<number, DevicePair>();

  constructor(rows: AdapterRows) {
    this.#rows = rows;
  }

  get size(): number {
    return this.#pairs.size;
  }

  set(serial: number, pair: DevicePair): void {
    this.#pairs.set(serial, pair);
  }

  delete(serial: number): void {
    this.#pairs.delete(serial);
  }

  add(out: Tensor, x: Tensor): void {
    const rows = this.#rows;
    if (rows.groups === 0) return;
    const whole = rows.isWhole(x.rowCount);
    for (let g = 0; g < rows.groups; g++) {
      const group = rows.at(g);
      const pair = this.#pairs.get(group.serial);
      const count = whole ? group.count : group.wanted;
      if (pair === undefined || count === 0) continue;
      if (count === x.rowCount) {
        linearAdd(out, linear(x, pair.down), pair.up);
      } else {
        const ids = whole ? group.ids : group.wantedIds;
        const delta = linear(linear(gatherRows(flat(x), ids, count), pair.down), pair.up);
        scatterRows(flat(out), delta, ids, true);
      }
    }
  }

  addExperts(out: Tensor, x: Tensor, experts: Tensor, expertCount: number): void {
    const rows = this.#rows;
    if (rows.groups === 0) return;
    const tokens = experts.shape[0]!;
    const whole = rows.isWhole(tokens);
    for (let g = 0; g < rows.groups; g++) {
      const group = rows.at(g);
      const pair = this.#pairs.get(group.serial);
      const count = whole ? group.count : group.wanted;
      if (pair === undefined || count === 0) continue;
      if (pair.down.shape[0] % expertCount !== 0) {
        throw new InferenceError(`adapter: expected matrices of ${expertCount} experts, got "${pair.down.name}"`);
      }
      const ids = whole ? group.ids : group.wantedIds;
      const all = count === tokens;
      const chosen = all ? experts : gatherRows(experts, ids, count);
      const input = all ? x : gatherTokens(x, tokens, ids, count);
      const delta = linearExperts(linearExperts(input, pair.down, chosen, expertCount), pair.up, chosen, expertCount);
      if (all) {
        addInto(out, delta);
      } else {
        const width = out.size / tokens;
        scatterRows(out.reshape([tokens, width]), delta.reshape([count, width]), ids, true);
      }
    }
  }
}

function flat(t: Tensor): Tensor {
  return t.rank === 2 ? t : t.reshape([t.rowCount, t.width]);
}

/** The rows of some tokens, where each may have several. */
function gatherTokens(x: Tensor, tokens: number, ids: Tensor, count: number): Tensor {
  if (x.shape[0] === tokens) return gatherRows(x, ids, count);
  const rows = gatherRows(x.reshape([tokens, x.size / tokens]), ids, count);
  return rows.reshape([rows.size / x.width, x.width]);
}
