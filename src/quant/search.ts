/**
 * The searches by which the GGUF quantizers choose scales and codes. Files are only equal to the byte when every
 * intermediate result is rounded to float32 and sums run in the same order, hence a `fround` around every operation.
 */

const f = Math.fround;
const TENTH = f(0.1);
/** Groups whose largest magnitude is below this count as zero. */
export const ZERO_GROUP = f(1e-15);
// Adding 1.5·2²³ leaves no fraction bits: the sum is rounded to an integer, ties to even.
const ROUNDER = 12582912;

/** Nearest integer of a float32, ties to even. */
export function nearest(value: number): number {
  return f(value + ROUNDER) - ROUNDER;
}

/** Nearest integer, ties away from zero. */
export function roundAway(value: number): number {
  return value < 0 ? -Math.floor(0.5 - value) : Math.floor(value + 0.5);
}

export function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
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
  let scale = 0;
  let best = 0;
  for (let attempt = -10; attempt <= 9; attempt++) {
    // The unshifted scale comes first and is the one to beat.
    const first = attempt === -10;
    if (attempt === 0) continue;
    const inverse = f(-(first ? half : f(half + f(TENTH * attempt))) / max);
    let xl = 0;
    let ll = 0;
    for (let i = 0; i < n; i++) {
      const v = x[at + i]!;
      const l = clamp(nearest(f(inverse * v)), -half, half - 1);
      const w = weights ? weights[weightsAt + i]! : f(v * v);
      xl = f(xl + f(f(w * v) * l));
      ll = f(ll + f(f(w * l) * l));
    }
    if (!first && !(ll > 0 && f(xl * xl) > f(best * ll))) continue;
    scale = ll ? f(xl / ll) : 0;
    best = f(scale * xl);
    for (let i = 0; i < n; i++) {
      codes[codesAt + i] = half + clamp(nearest(f(inverse * x[at + i]!)), -half, half - 1);
    }
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
  for (let i = 0; i < n; i++) {
    const v = x[at + i]!;
    if (v < min) min = v;
    if (v > max) max = v;
    const w = weights[i]!;
    w1 = f(w1 + w);
    wx = f(wx + f(w * v));
  }
  if (min > 0) min = 0;
  if (max <= min) {
    codes.fill(0, codesAt, codesAt + n);
    mins[minsAt] = -min;
    return 0;
  }
  let inverse = f(levels / f(max - min));
  let scale = f(1 / inverse);
  for (let i = 0; i < n; i++) codes[codesAt + i] = clamp(nearest(f(inverse * f(x[at + i]! - min))), 0, levels);
  let best = affineError(x, at, n, weights, search.absolute, codes, codesAt, scale, min);
  const trial = new Uint8Array(n);
  for (let step = 0; step <= search.steps; step++) {
    // A better minimum found on the way is where the next trials start from.
    inverse = f(f(f(search.first + f(search.step * step)) + levels) / f(max - min));
    let wl = 0;
    let wll = 0;
    let wlx = 0;
    for (let i = 0; i < n; i++) {
      const v = x[at + i]!;
      const l = clamp(nearest(f(inverse * f(v - min))), 0, levels);
      trial[i] = l;
      const p = f(weights[i]! * l);
      wl = f(wl + p);
      wll = f(wll + f(p * l));
      wlx = f(wlx + f(p * v));
    }
    const determinant = f(f(w1 * wll) - f(wl * wl));
    if (!(determinant > 0)) continue;
    let trialScale = f(f(f(w1 * wlx) - f(wx * wl)) / determinant);
    let trialMin = f(f(f(wll * wx) - f(wl * wlx)) / determinant);
    if (trialMin > 0) {
      trialMin = 0;
      trialScale = f(wlx / wll);
    }
    const error = affineError(x, at, n, weights, search.absolute, trial, 0, trialScale, trialMin);
    if (error < best) {
      codes.set(trial, codesAt);
      best = error;
      scale = trialScale;
      min = trialMin;
    }
  }
  mins[minsAt] = -min;
  return scale;
}

function affineError(
  x: Float32Array,
  at: number,
  n: number,
  weights: Float32Array,
  absolute: boolean,
  codes: Uint8Array,
  codesAt: number,
  scale: number,
  min: number,
): number {
  let error = 0;
  for (let i = 0; i < n; i++) {
    const difference = f(f(f(scale * codes[codesAt + i]!) + min) - x[at + i]!);
    const cost = absolute ? Math.abs(difference) : f(difference * difference);
    error = f(error + f(weights[i]! * cost));
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
    codes[codesAt + i] = l + half;
    const w = f(v * v);
    xl = f(xl + f(f(w * v) * l));
    ll = f(ll + f(f(w * l) * l));
  }
  for (let pass = 0, changed = true; pass < 5 && changed; pass++) {
    changed = false;
    for (let i = 0; i < n; i++) {
      const v = x[at + i]!;
      const w = f(v * v);
      const old = codes[codesAt + i]! - half;
      let xlWithout = f(xl - f(f(w * v) * old));
      if (!(xlWithout > 0)) continue;
      let llWithout = f(ll - f(f(w * old) * old));
      const l = clamp(nearest(f(f(v * llWithout) / xlWithout)), -half, half - 1);
      if (l === old) continue;
      xlWithout = f(xlWithout + f(f(w * v) * l));
      llWithout = f(llWithout + f(f(w * l) * l));
      if (llWithout > 0 && f(f(xlWithout * xlWithout) * ll) > f(f(xl * xl) * llWithout)) {
        codes[codesAt + i] = l + half;
        xl = xlWithout;
        ll = llWithout;
        changed = true;
      }
    }
  }
  return ll > 0 ? f(xl / ll) : 0;
}
