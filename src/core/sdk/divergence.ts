/**
 * How well logits foretell a text, and how far they are from the logits of a reference: cross entropy, perplexity and
 * Kullback–Leibler divergence. Everything is summed in double precision.
 */
import { ShapeError } from '../errors.ts';

type Row = ArrayLike<number>;

/** `ln Σ e^x` of a row of logits. */
export function logSumExp(row: Row): number {
  const max = maximum(row);
  if (!Number.isFinite(max)) return max;
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp(row[i]! - max);
  return max + Math.log(sum);
}

/** `-ln p(token)` under a row of logits. */
export function crossEntropy(row: Row, token: number): number {
  checkToken(row, token);
  return logSumExp(row) - row[token]!;
}

/** What one row of logits and its reference differ by. */
export interface RowDivergence {
  /** `Σ p ln(p / q)`, `p` of the reference; infinite where `q` rules out what `p` allows. */
  readonly kl: number;
  /** Both find the same token the most likely one. */
  readonly sameTop: boolean;
  /** `ln Σ e^x` of either row. */
  readonly referenceLogSum: number;
  readonly logSum: number;
}

/**
 * Kullback–Leibler divergence of a row of logits from a reference row.
 * @throws ShapeError where the rows differ in length.
 */
export function rowDivergence(reference: Row, row: Row): RowDivergence {
  if (reference.length !== row.length) {
    throw new ShapeError(
      `divergence: expected rows of one vocabulary, got ${reference.length} and ${row.length} logits; compare models with the same tokens`,
    );
  }
  const [p, q] = [argmax(reference), argmax(row)];
  const [pMax, qMax] = [reference[p] ?? Number.NaN, row[q] ?? Number.NaN];
  let pSum = 0;
  let qSum = 0;
  let weighted = 0;
  for (let i = 0; i < row.length; i++) {
    const weight = Math.exp(reference[i]! - pMax);
    pSum += weight;
    qSum += Math.exp(row[i]! - qMax);
    // A token that the reference rules out counts for nothing, even where both are -Infinity.
    if (weight !== 0) weighted += weight * (reference[i]! - row[i]!);
  }
  const referenceLogSum = pMax + Math.log(pSum);
  const logSum = qMax + Math.log(qSum);
  const kl = weighted / pSum + logSum - referenceLogSum;
  // Rounding may leave equal rows a little below zero.
  return { kl: Math.max(kl, 0), sameTop: p === q, referenceLogSum, logSum };
}

/** Mean and standard error of the mean of values that come one by one (Welford's recurrence). */
export class Mean {
  #count = 0;
  #mean = 0;
  #squares = 0;

  add(value: number): void {
    this.#count++;
    if (!Number.isFinite(value + this.#mean)) {
      // Infinity stays what it is; the recurrence would make it NaN.
      this.#mean += value;
      this.#squares = Number.NaN;
      return;
    }
    const delta = value - this.#mean;
    this.#mean += delta / this.#count;
    this.#squares += delta * (value - this.#mean);
  }

  get count(): number {
    return this.#count;
  }

  /** NaN of no values. */
  get mean(): number {
    return this.#count === 0 ? Number.NaN : this.#mean;
  }

  /** Of the mean, from the spread of the values with `n - 1` degrees of freedom; NaN of fewer than two. */
  get standardError(): number {
    const n = this.#count;
    return n < 2 ? Number.NaN : Math.sqrt(this.#squares / (n - 1) / n);
  }
}

/** Perplexity of a text, from the cross entropies of its tokens. */
export interface PerplexitySummary {
  /** Tokens that were foretold. */
  readonly count: number;
  /** Mean cross entropy in nats. */
  readonly loss: number;
  readonly lossError: number;
  /** `e^loss`. */
  readonly perplexity: number;
  /** Standard error of the perplexity, to first order. */
  readonly perplexityError: number;
}

export function perplexityOf(losses: Mean): PerplexitySummary {
  const { count, mean: loss, standardError: lossError } = losses;
  const perplexity = Math.exp(loss);
  return { count, loss, lossError, perplexity, perplexityError: perplexity * lossError };
}

/** Rows of logits against those of a reference. */
export interface DivergenceSummary {
  readonly count: number;
  /** Of the divergences of rows, in nats. */
  readonly mean: number;
  readonly meanError: number;
  readonly median: number;
  /** 99 % of the rows are at or below it. */
  readonly p99: number;
  readonly max: number;
  /** Share of rows whose most likely token is that of the reference. */
  readonly sameTop: number;
  /** Root mean square of how much the probability of the text's own token changed; NaN where no row had one. */
  readonly rmsDeltaP: number;
}

/** Gathers rows of logits beside the rows of a reference. */
export class Divergence {
  /** One number a row: quantiles need them all. */
  readonly #divergences: number[] = [];
  readonly #mean = new Mean();
  readonly #squaredDeltas = new Mean();
  #same = 0;

  /** `token` is the one that follows in the text. Returns what the two rows say about it. */
  add(reference: Row, row: Row, token?: number): RowDivergence {
    const found = rowDivergence(reference, row);
    this.#divergences.push(found.kl);
    this.#mean.add(found.kl);
    if (found.sameTop) this.#same++;
    if (token !== undefined) {
      checkToken(row, token);
      const delta = Math.exp(row[token]! - found.logSum) - Math.exp(reference[token]! - found.referenceLogSum);
      this.#squaredDeltas.add(delta * delta);
    }
    return found;
  }

  summary(): DivergenceSummary {
    const sorted = Float64Array.from(this.#divergences).sort();
    const { count, mean, standardError } = this.#mean;
    return {
      count,
      mean,
      meanError: standardError,
      median: quantile(sorted, 0.5),
      p99: quantile(sorted, 0.99),
      max: quantile(sorted, 1),
      sameTop: this.#same / count,
      rmsDeltaP: Math.sqrt(this.#squaredDeltas.mean),
    };
  }
}

/** Of sorted values, linear between two neighbours; NaN of none. */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  const at = (sorted.length - 1) * share;
  const low = Math.floor(at);
  const from = sorted[low] ?? Number.NaN;
  const to = sorted[Math.ceil(at)] ?? Number.NaN;
  return from === to ? from : from + (to - from) * (at - low);
}

function maximum(row: Row): number {
  return row[argmax(row)] ?? Number.NEGATIVE_INFINITY;
}

/** The first of the largest. A NaN wins, so that it shows in every result. */
function argmax(row: Row): number {
  let best = 0;
  for (let i = 0; i < row.length; i++) {
    const value = row[i]!;
    if (value > row[best]!) best = i;
    else if (Number.isNaN(value)) return i;
  }
  return best;
}

function checkToken(row: Row, token: number): void {
  if (!(Number.isInteger(token) && token >= 0 && token < row.length)) {
    throw new ShapeError(`divergence: expected a token below ${row.length}, got ${token}`);
  }
}
