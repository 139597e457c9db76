import type { LinearOptions } from '../../core/backend.ts';
import { WeightError } from '../../core/errors.ts';
import type { Tensor } from '../../core/tensor.ts';
import { sizeOf } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import type { Weights } from '../../core/weights.ts';
import { rowRuns } from '../../core/weightViews.ts';

/** A matrix and its bias, ready for `linear` (`plain`) and `linearAdd` (`adding`). */
export interface Projection {
  readonly weight: Weight;
  readonly plain: LinearOptions;
  readonly adding: LinearOptions;
}

export interface ProjectionPart {
  /** Without `.weight` or `.bias`. */
  readonly name: string;
  readonly rows: number;
  /** Takes `[first, count]` of `stored` rows, in this order; all of them when absent. */
  readonly runs?: Runs | undefined;
  readonly stored?: number | undefined;
}

export type Runs = readonly (readonly [first: number, count: number])[];

/**
 * Projections of one input, merged into one matrix. `bias`: whether the parts have one; absent, those are taken that the
 * checkpoint holds.
 */
export function projection(w: Weights, parts: readonly ProjectionPart[], width: number, bias?: boolean): Projection {
  const rows = parts.reduce((n, p) => n + p.rows, 0);
  const sources = parts.map((p) => {
    const name = `${p.name}.weight`;
    checkShape(w, name, p.stored ?? p.rows, width);
    return p.runs ? rowRuns(w.source(name), p.runs, width, `${w.path}${name}[${p.runs}]`) : w.source(name);
  });
  const weight = w.matrixOf(sources, [rows, width]);
  const vector = bias === false ? undefined : biasOf(w, parts, bias === true);
  return { weight, plain: { bias: vector }, adding: { bias: vector, accumulate: true } };
}

/** Demands a matrix of the checkpoint to be `[rows, width]`, whichever way its rows are grouped. */
export function checkShape(w: Weights, name: string, rows: number, width: number): void {
  const shape = w.shapeOf(name);
  if (shape[shape.length - 1] !== width || sizeOf(shape) !== rows * width) {
    throw new WeightError(
      `tensor "${w.path}${name}": expected shape [${rows},${width}], got [${shape}]; check the configuration`,
    );
  }
}

function biasOf(w: Weights, parts: readonly ProjectionPart[], required: boolean): Tensor | undefined {
  if (!required && !parts.some((p) => w.has(`${p.name}.bias`))) return undefined;
  return w.vector(
    parts.map((p) => ({
      name: `${p.name}.bias`,
      size: p.rows,
      ...(p.runs ? { runs: p.runs, stored: p.stored ?? p.rows } : {}),
    })),
    required,
  );
}
