/** What the activations of a matrix are like, measured while the model runs. */
import type { Backend } from '../../core/backend.ts';
import { addExpertSquares, addInto, addSquares, scaleInto } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weight, WeightObserver } from '../../core/weight.ts';

/** Calls after which sums move to a second set: small addends are rounded coarsely beside a sum of thousands of them. */
const FOLD_EVERY = 256;

interface Sums {
  /** `[experts, columns]`; one row without experts. */
  readonly squares: Tensor;
  /** Rows by expert. */
  readonly counts: Tensor | undefined;
}

/** Sums the squares of whatever a weight is multiplied with, column by column and expert by expert, on the device. */
export class ColumnSquares implements WeightObserver {
  /** Rows seen so far; for experts, pairs of a row and one of its choices. */
  rows = 0;
  calls = 0;
  readonly #columns: number;
  readonly #recent: Sums;
  readonly #folded: Sums;

  constructor(backend: Backend, weight: Weight) {
    const columns = weight.shape[1];
    const experts = weight.experts?.count;
    const zeros = (shape: readonly number[]) =>
      backend.upload(new Float32Array(shape.reduce((n, d) => n * d, 1)), shape, 'f32');
    const sums = (): Sums => ({
      squares: zeros(experts === undefined ? [columns] : [experts, columns]),
      counts: experts === undefined ? undefined : zeros([experts]),
    });
    this.#columns = columns;
    this.#recent = sums();
    this.#folded = sums();
  }

  see(x: Tensor): void {
    this.#fold();
    addSquares(this.#recent.squares, x);
    this.#count(x.rowCount);
  }

  seeExperts(x: Tensor, experts: Tensor): void {
    this.#fold();
    const { squares, counts } = this.#recent;
    // Matrices that each head has one of have an importance in common.
    if (counts) addExpertSquares(squares, counts, x, experts);
    else addSquares(squares, x);
    this.#count(experts.size);
  }

  /**
   * The mean square of every column times the number of calls; of experts, one after the other, zeros where no row came.
   * `undefined` where a sum is not finite. No step may run.
   */
  async importance(): Promise<Float32Array | undefined> {
    const values = await total(this.#recent.squares, this.#folded.squares);
    const { counts } = this.#recent;
    const rows = counts ? await total(counts, this.#folded.counts as Tensor) : [this.rows];
    for (let i = 0; i < values.length; i++) {
      const seen = Math.max(1, rows[Math.floor(i / this.#columns)] as number);
      values[i] = (values[i]! / seen) * this.calls;
      if (!Number.isFinite(values[i])) return undefined;
    }
    return values;
  }

  dispose(): void {
    for (const { squares, counts } of [this.#recent, this.#folded]) {
      squares.dispose();
      counts?.dispose();
    }
  }

  #count(rows: number): void {
    this.rows += rows;
    this.calls++;
  }

  /** Ahead of the next addition: other ops than the observed product must not follow one. */
  #fold(): void {
    if (this.calls % FOLD_EVERY !== 0 || this.calls === 0) return;
    fold(this.#recent.squares, this.#folded.squares);
    if (this.#recent.counts) fold(this.#recent.counts, this.#folded.counts as Tensor);
  }
}

function fold(from: Tensor, into: Tensor): void {
  addInto(into, from);
  scaleInto(from, 0);
}

async function total(a: Tensor, b: Tensor): Promise<Float32Array> {
  const [x, y] = [await a.toFloat32Array(), await b.toFloat32Array()];
  return x.map((v, i) => v + y[i]!);
}
