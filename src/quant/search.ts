/**
 * The searches by which the GGUF quantizers choose scales and codes. Files are only equal to the byte when every
 * intermediate result is rounded to float32 and sums run in the same order, hence a `fround` around every operation.
 */

const f = Math.fround;
const TENTH = f(0.1);
/** Groups whose largest magnitude is below this count as zero. */
export const ZERO_GROUP = f(1e-15);
// Adding 1.5·2⁵² leaves no fraction bits: the sum is rounded to an integer, ties to even.
const ROUNDER = 1.5 * 2 ** 52;

/** Nearest integer, ties to even. */
export function nearest(value: number): number {
  return value + ROUNDER - ROUNDER;
}

/** Elements of the longest group that is fitted at once. */
const MAX_GROUP = 32;
// What one call of a search remembers of a group. Calls do not overlap: nothing is kept from one to the next.
const trial = new Int32Array(MAX_GROUP);
const value = new Float64Array(MAX_GROUP);
const weight = new Float64Array(MAX_GROUP);
const weighted = new Float64Array(MAX_GROUP);
const shifted = new Float64Array(MAX_GROUP);
const decoded = new Float64Array(MAX_GROUP);

// Rounding every sum of every trial to float32 takes most of the time, and most trials are no better than what is known. So
// each is weighed in double precision first, by sums that follow the few codes that change from one trial to the next. There
// it can only look worse than it is by less than these shares; only what may be better is summed as the files want it.
/** Of sums of up to 32 products of one sign. */
const SUM_SLACK = 1e-5;
/** Of a decoded element, by the largest one. */
const ELEMENT_SLACK = 1e-6;
/** Products below this are not rounded to a share of themselves. */
const UNDERFLOW = 1e-35;
/** Below this share of its parts a determinant says nothing. */
const DETERMINANT_SLACK = 1e-9;

/** Sums over the codes in `trial`: of weight·code, weight·code², weight·element·code. */
const sums = { wl: 0, wll: 0, wlx: 0 };

function startTrials(n: number): void {
  trial.fill(0, 0, n);
  sums.wl = 0;
  sums.wll = 0;
  sums.wlx = 0;
}

/**
 * Codes of `scale · values`, clamped, to `trial`. Returns whether any of them differs from what was there: neighbouring scales
 * often give equal codes, which need not be judged again.
 */
function tryCodes(scale: number, values: Float64Array, n: number, low: number, high: number): boolean {
  const codes = trial;
  let { wl, wll, wlx } = sums;
  let changed = false;
  for (let i = 0; i < n; i++) {
    let l = (f(scale * values[i]!) + ROUNDER - ROUNDER) | 0;
    if (l < low) l = low;
    else if (l > high) l = high;
    const old = codes[i]!;
    if (l === old) continue;
    codes[i] = l;
    changed = true;
    const step = weight[i]! * (l - old);
    wl += step;
    wll += step * (l + old);
    wlx += weighted[i]! * (l - old);
  }
  if (!changed) return false;
  sums.wl = wl;
  sums.wll = wll;
  sums.wlx = wlx;
  return true;
}

/** Nearest integer, ties away from zero. */
export function roundAway(value: number): number {
  return value < 0 ? -Math.floor(0.5 - value) : Math.floor(value + 0.5);
}

export function clamp(value: number, low: number, high: number): number {
  if (value < low) return low;
  if (value > high) return high;
  return value;
}

/** `1 / value`, 0 for 0. */
export function reciprocal(value: number): number {
  return value ? f(1 / value) : 0;
}

/** The element of largest magnitude, with its sign; the first of equals. */
export function extreme(x: Float32Array, at: number, n: number): number {
  let largest = 0;
  let value = 0;
  for (let i = at; i < at + n; i++) {
    const magnitude = Math.abs(x[i]!);
    if (magnitude > largest) {
      largest = magnitude;
      value = x[i]!;
    }
  }
  return value;
}

export function sumOfSquares(x: Float32Array, at: number, n: number): number {
  let sum = 0;
  for (let i = at; i < at + n; i++) sum = f(sum + f(x[i]! * x[i]!));
  return sum;
}

/** `out[i] = importance·√(variance + x²)`: a column counts more where the activations and the weight are large. */
export function weigh(
  x: Float32Array,
  at: number,
  n: number,
  importance: Float32Array,
  variance: number,
  out: Float32Array,
): void {
  for (let i = 0; i < n; i++) {
    const v = x[at + i]!;
    out[i] = importance[at + i]! * f(Math.sqrt(f(variance + f(v * v))));
  }
}

export function sum(x: Float32Array): number {
  let total = 0;
  for (let i = 0; i < x.length; i++) total = f(total + x[i]!);
  return total;
}

/**
 * Fits `x ≈ scale·(code − half)` with codes 0…2·half − 1: tries 19 scales near `−half / extreme` and keeps the one
 * with the largest weighted correlation. Without weights, squares of x serve. Returns the scale.
 */
export function fitSymmetric(
  x: Float32Array,
  at: number,
  n: number,
  half: number,
  weights: Float32Array | undefined,
  weightsAt: number,
  codes: Uint8Array,
  codesAt: number,
): number {
  const max = extreme(x, at, n);
  if (Math.abs(max) < ZERO_GROUP) {
    codes.fill(0, codesAt, codesAt + n);
    return 0;
  }
  for (let i = 0; i < n; i++) {
    const v = x[at + i]!;
    const w = weights ? weights[weightsAt + i]! : f(v * v);
    value[i] = v;
    weight[i] = w;
    weighted[i] = f(w * v);
  }
  startTrials(n);
  let scale = 0;
  let best = 0;
  for (let attempt = -10; attempt <= 9; attempt++) {
    // The unshifted scale comes first and is the one to beat.
    const first = attempt === -10;
    if (attempt === 0) continue;
    const inverse = f(-(first ? half : f(half + f(TENTH * attempt))) / max);
    if (!tryCodes(inverse, value, n, -half, half - 1)) continue;
    const square = sums.wlx * sums.wlx;
    if (!first && square > UNDERFLOW && square < best * sums.wll * (1 - SUM_SLACK)) continue;
    let xl = 0;
    let ll = 0;
    for (let i = 0; i < n; i++) {
      const l = trial[i]!;
      xl = f(xl + f(weighted[i]! * l));
      ll = f(ll + f(f(weight[i]! * l) * l));
    }
    if (!first && !(ll > 0 && f(xl * xl) > f(best * ll))) continue;
    scale = ll ? f(xl / ll) : 0;
    best = f(scale * xl);
    for (let i = 0; i < n; i++) codes[codesAt + i] = half + trial[i]!;
  }
  return scale;
}

/** How `fitAffine` walks the scales: `steps + 1` of them, from `levels + first` levels in steps of `step`. */
export interface AffineSearch {
  readonly first: number;
  readonly step: number;
  readonly steps: number;
  /** Judge by absolute instead of squared differences. */
  readonly absolute: boolean;
}

export function affineSearch(first: number, step: number, steps: number, absolute = false): AffineSearch {
  return { first: f(first), step: f(step), steps, absolute };
}

/** The search of all formats with a minimum when an importance vector is given. */
export const WITH_IMPORTANCE = affineSearch(-0.9, 0.05, 36);

/**
 * Fits `x ≈ scale·code − min` with codes 0…levels and min ≥ 0: for each trial scale, rounds to codes and solves the
 * weighted least squares for scale and minimum. Returns the scale and stores the minimum in `mins[minsAt]`.
 */
export function fitAffine(
  x: Float32Array,
  at: number,
  n: number,
  levels: number,
  weights: Float32Array,
  search: AffineSearch,
  codes: Uint8Array,
  codesAt: number,
  mins: Float32Array,
  minsAt: number,
): number {
  let min = x[at]!;
  let max = min;
  let w1 = 0;
  let wx = 0;
  const group: GroupSums = { w1: 0, wx: 0, wxx: 0 };
  for (let i = 0; i < n; i++) {
    const v = x[at + i]!;
    if (v < min) min = v;
    if (v > max) max = v;
    const w = weights[i]!;
    w1 = f(w1 + w);
    wx = f(wx + f(w * v));
    group.w1 += w;
    group.wx += w * v;
    group.wxx += w * v * v;
    value[i] = v;
    weight[i] = w;
    weighted[i] = w * v;
  }
  const largest = Math.max(max, -min);
  if (min > 0) min = 0;
  if (max <= min) {
    codes.fill(0, codesAt, codesAt + n);
    mins[minsAt] = -min;
    return 0;
  }
  let inverse = f(levels / f(max - min));
  let scale = f(1 / inverse);
  for (let i = 0; i < n; i++) shifted[i] = f(value[i]! - min);
  startTrials(n);
  tryCodes(inverse, shifted, n, 0, levels);
  for (let i = 0; i < n; i++) codes[codesAt + i] = trial[i]!;
  let best = affineError(n, levels, search.absolute, scale, min, Number.POSITIVE_INFINITY);
  const slack = ELEMENT_SLACK * largest * Math.sqrt(w1);
  let limit = limitOf(best, slack, w1);
  startTrials(n);
  for (let step = 0; step <= search.steps; step++) {
    // A better minimum found on the way is where the next trials start from.
    inverse = f(f(f(search.first + f(search.step * step)) + levels) / f(max - min));
    if (!tryCodes(inverse, shifted, n, 0, levels)) continue;
    if (!search.absolute && leastError(group) > limit) continue;
    let wl = 0;
    let wll = 0;
    let wlx = 0;
    for (let i = 0; i < n; i++) {
      const l = trial[i]!;
      const p = f(weight[i]! * l);
      wl = f(wl + p);
      wll = f(wll + f(p * l));
      wlx = f(wlx + f(p * value[i]!));
    }
    const determinant = f(f(w1 * wll) - f(wl * wl));
    if (!(determinant > 0)) continue;
    let trialScale = f(f(f(w1 * wlx) - f(wx * wl)) / determinant);
    let trialMin = f(f(f(wll * wx) - f(wl * wlx)) / determinant);
    if (trialMin > 0) {
      trialMin = 0;
      trialScale = f(wlx / wll);
    }
    const error = affineError(n, levels, search.absolute, trialScale, trialMin, best);
    if (error < best) {
      for (let i = 0; i < n; i++) codes[codesAt + i] = trial[i]!;
      best = error;
      limit = limitOf(best, slack, w1);
      scale = trialScale;
      min = trialMin;
      for (let i = 0; i < n; i++) shifted[i] = f(value[i]! - min);
    }
  }
  mins[minsAt] = -min;
  return scale;
}

/** What a trial's error in double precision may be at most. */
function limitOf(best: number, slack: number, weights: number): number {
  if (best < UNDERFLOW * (1 + weights)) return Number.POSITIVE_INFINITY;
  return (Math.sqrt(best) * (1 + SUM_SLACK) + slack) ** 2;
}

/** Sums of the weights of a group, and of their products with the elements and with the squares of those. */
interface GroupSums {
  w1: number;
  wx: number;
  wxx: number;
}

/** The least squared error that any scale and any minimum ≥ 0 reach with the codes in `trial`; 0 where they leave them open. */
function leastError({ w1, wx, wxx }: GroupSums): number {
  const { wl, wll, wlx } = sums;
  const determinant = w1 * wll - wl * wl;
  if (!(determinant > DETERMINANT_SLACK * w1 * wll)) return 0;
  const min = (wll * wx - wl * wlx) / determinant;
  if (min > 0) return wxx - (wlx * wlx) / wll;
  return wxx - ((w1 * wlx - wx * wl) / determinant) * wlx - min * wx;
}

/** Error of the codes in `trial`; no less than `best` as soon as that is certain. */
function affineError(n: number, levels: number, absolute: boolean, scale: number, min: number, best: number): number {
  for (let code = 0; code <= levels; code++) decoded[code] = f(f(scale * code) + min);
  let error = 0;
  for (let i = 0; i < n && error < best; i++) {
    const difference = f(decoded[trial[i]!]! - value[i]!);
    const cost = absolute ? Math.abs(difference) : f(difference * difference);
    error = f(error + f(weight[i]! * cost));
  }
  return error;
}

/**
 * Fits `x ≈ scale·code` for non-negative x with codes 0…levels: tries nine scales, then changes single codes while the
 * weighted correlation grows. Returns the scale.
 */
export function fitPositive(x: Float32Array, levels: number, weights: Float32Array, codes: Uint8Array): number {
  const n = x.length;
  let max = 0;
  for (let i = 0; i < n; i++) max = Math.max(max, x[i]!);
  if (!max) {
    codes.fill(0);
    return 0;
  }
  let inverse = f(levels / max);
  let best = Number.POSITIVE_INFINITY;
  for (let attempt = -5; attempt <= 4; attempt++) {
    const first = attempt === -5;
    if (attempt === 0) continue;
    const trial = first ? inverse : f(f(f(TENTH * attempt) + levels) / max);
    const scale = f(1 / trial);
    let error = 0;
    for (let i = 0; i < n; i++) {
      const l = Math.min(levels, nearest(f(trial * x[i]!)));
      const difference = f(x[i]! - f(scale * l));
      error = f(error + f(f(weights[i]! * difference) * difference));
    }
    if (error < best) {
      best = error;
      inverse = trial;
    }
  }
  let xl = 0;
  let ll = 0;
  for (let i = 0; i < n; i++) {
    const l = clamp(nearest(f(inverse * x[i]!)), 0, levels);
    codes[i] = l;
    const w = weights[i]!;
    xl = f(xl + f(f(w * x[i]!) * l));
    ll = f(ll + f(f(w * l) * l));
  }
  for (let pass = 0, changed = true; pass < 5 && changed; pass++) {
    changed = false;
    for (let i = 0; i < n; i++) {
      const w = weights[i]!;
      const v = x[i]!;
      const old = codes[i]!;
      let xlWithout = f(xl - f(f(w * v) * old));
      let llWithout = f(ll - f(f(w * old) * old));
      if (!(xlWithout > 0 && llWithout > 0)) continue;
      const l = clamp(nearest(f(f(v * llWithout) / xlWithout)), 0, levels);
      if (l === old) continue;
      xlWithout = f(xlWithout + f(f(w * v) * l));
      llWithout = f(llWithout + f(f(w * l) * l));
      if (f(f(xlWithout * xlWithout) * ll) > f(f(xl * xl) * llWithout)) {
        codes[i] = l;
        xl = xlWithout;
        ll = llWithout;
        changed = true;
      }
    }
  }
  return ll > 0 ? f(xl / ll) : f(1 / inverse);
}

/**
 * Fits `x ≈ scale·(code − half)` with codes 0…2·half − 1 by changing single codes while the correlation, weighted by
 * the squares of x, grows. Returns the scale.
 */
export function fitByDescent(
  x: Float32Array,
  at: number,
  n: number,
  half: number,
  codes: Uint8Array,
  codesAt: number,
): number {
  const max = extreme(x, at, n);
  if (Math.abs(max) < ZERO_GROUP) {
    codes.fill(0, codesAt, codesAt + n);
    return 0;
  }
  const inverse = f(-half / max);
  let xl = 0;
  let ll = 0;
  for (let i = 0; i < n; i++) {
    const v = x[at + i]!;
    const l = clamp(nearest(f(inverse * v)), -half, half - 1);
    const w = f(v * v);
    value[i] = v;
    weight[i] = w;
    weighted[i] = f(w * v);
    trial[i] = l;
    xl = f(xl + f(weighted[i]! * l));
    ll = f(ll + f(f(w * l) * l));
  }
  for (let pass = 0, changed = true; pass < 5 && changed; pass++) {
    changed = false;
    for (let i = 0; i < n; i++) {
      const w = weight[i]!;
      const wv = weighted[i]!;
      const old = trial[i]!;
      let xlWithout = f(xl - f(wv * old));
      if (!(xlWithout > 0)) continue;
      let llWithout = f(ll - f(f(w * old) * old));
      const l = clamp(nearest(f(f(value[i]! * llWithout) / xlWithout)), -half, half - 1) | 0;
      if (l === old) continue;
      xlWithout = f(xlWithout + f(wv * l));
      llWithout = f(llWithout + f(f(w * l) * l));
      if (llWithout > 0 && f(f(xlWithout * xlWithout) * ll) > f(f(xl * xl) * llWithout)) {
        trial[i] = l;
        xl = xlWithout;
        ll = llWithout;
        changed = true;
      }
    }
  }
  for (let i = 0; i < n; i++) codes[codesAt + i] = trial[i]! + half;
  return ll > 0 ? f(xl / ll) : 0;
}
