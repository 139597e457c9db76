/** What adapters that a model is loaded with add to the products of one weight: `Δ(x) = up (scalings ⊙ down x)`. */
import { addInto, linear, linearAdd, linearExperts, mulInto, scaleInto } from '../ops.ts';
import type { Tensor } from '../tensor.ts';
import type { Weight, WeightDelta } from '../weight.ts';
import type { DevicePair } from './delta.ts';

/** What each adapter counts for in each row of the moment. */
export interface RowScalings {
  /** One number for all of them; `undefined` where `of` tells. */
  readonly constant: number | undefined;
  /** `[rows, columns.size]`: for all rows of the step, or for the wanted ones. */
  of(columns: Tensor, rows: number): Tensor;
}

/** Which scalings the rows of `down` take. */
export interface ScalingColumns {
  /** i32, one for each row of `down`; for routed experts every one that some expert takes. */
  readonly columns: Tensor;
  /** For routed experts: which of `columns` each row of `down` takes, as rows with a single one. */
  readonly chosen?: Weight | undefined;
}

export class ScaledDelta implements WeightDelta {
  readonly #pair: DevicePair;
  readonly #scalings: RowScalings | undefined;
  readonly #columns: ScalingColumns | undefined;

  /** Without scalings, every adapter counts once. */
  constructor(pair: DevicePair, scalings?: RowScalings, columns?: ScalingColumns) {
    this.#pair = pair;
    this.#scalings = scalings;
    this.#columns = columns;
  }

  add(out: Tensor, x: Tensor): void {
    const constant = this.#constant();
    if (constant === 0) return;
    const { down, up } = this.#pair;
    const inner = linear(x, down);
    if (constant === undefined) mulInto(inner, this.#scalings!.of(this.#columns!.columns, x.rowCount));
    else if (constant !== 1) scaleInto(inner, constant);
    linearAdd(out, inner, up);
  }

  addExperts(out: Tensor, x: Tensor, experts: Tensor, expertCount: number): void {
    const constant = this.#constant();
    if (constant === 0) return;
    const { down, up } = this.#pair;
    const inner = linearExperts(x, down, experts, expertCount);
    if (constant === undefined) {
      const { columns, chosen } = this.#columns!;
      const scalings = this.#scalings!.of(columns, experts.shape[0]!);
      mulInto(inner, linearExperts(scalings, chosen!, experts, expertCount));
    } else if (constant !== 1) {
      scaleInto(inner, constant);
    }
    addInto(out, linearExperts(inner, up, experts, expertCount));
  }

  dispose(): void {
    for (const t of [this.#pair.down, this.#pair.up, this.#columns?.columns, this.#columns?.chosen]) t?.dispose();
  }

  #constant(): number | undefined {
    return this.#scalings === undefined ? 1 : this.#scalings.constant;
  }
}
