import type { GluOptions, NormOptions, RopeOptions } from '../../core/backend.ts';
import type { Tensor } from '../../core/tensor.ts';
import { UNARY } from './functions.ts';
import { floats } from './memory.ts';

/** Normalises `n` values from `start` on; entry `i` then meets weight and bias number `parameter(i)`. */
function normalizePart(
  to: Float32Array,
  from: Float32Array,
  start: number,
  n: number,
  options: NormOptions,
  parameter: (i: number) => number,
): void {
  const { kind, eps, plusOne } = options;
  const weight = options.weight && floats(options.weight);
  const bias = options.bias && floats(options.bias);
  let mean = 0;
  if (kind === 'layer' || kind === 'group') {
    for (let i = 0; i < n; i++) mean += from[start + i]!;
    mean /= n;
  }
  let power = 0;
  for (let i = 0; i < n; i++) power += (from[start + i]! - mean) ** 2;
  const scale = 1 / Math.sqrt((kind === 'l2' ? power : power / n) + eps);
  for (let i = 0; i < n; i++) {
    const p = parameter(i);
    const factor = weight ? weight[p]! + (plusOne ? 1 : 0) : 1;
    to[start + i] = (from[start + i]! - mean) * scale * factor + (bias?.[p] ?? 0);
  }
}

/** In place, for one head. */
export function normalizeRow(row: Float32Array, options: NormOptions): void {
  const n = row.length / (options.groups ?? 1);
  for (let at = 0; at < row.length; at += n) normalizePart(row, row, at, n, options, (i) => at + i);
}

export function norm(out: Tensor, x: Tensor, options: NormOptions): void {
  const from = floats(x);
  const to = floats(out);
  const { groups = 1 } = options;
  if (options.kind === 'group') {
    const [batch, channels] = x.shape as [number, number];
    const plane = x.size / (batch * channels);
    const n = (channels / groups) * plane;
    for (let part = 0; part < batch * groups; part++) {
      const first = (part % groups) * (channels / groups);
      normalizePart(to, from, part * n, n, options, (i) => first + Math.floor(i / plane));
    }
    return;
  }
  const n = x.width / groups;
  for (let part = 0; part < x.rowCount * groups; part++) {
    normalizePart(to, from, part * n, n, options, (i) => (part % groups) * n + i);
  }
}

export function addNorm(out: Tensor, residual: Tensor, x: Tensor, options: NormOptions): void {
  const sum = floats(residual);
  const added = floats(x);
  for (let i = 0; i < sum.length; i++) sum[i]! += added[i]!;
  norm(out, residual, options);
}

export function softmax(out: Tensor, x: Tensor, scale: number, mask: Tensor | undefined): void {
  const from = floats(x);
  const to = floats(out);
  const extra = mask && floats(mask);
  const { width } = x;
  for (let r = 0; r < x.rowCount; r++) {
    const row = new Float64Array(width);
    for (let i = 0; i < width; i++) {
      row[i] = from[r * width + i]! * scale + (extra ? extra[(r * width + i) % extra.length]! : 0);
    }
    softmaxInPlace(row, -Infinity);
    to.set(row, r * width);
  }
}

/** `sink` is a further logit that only joins the denominator. A row of minus infinities gives zeros. */
export function softmaxInPlace(row: Float64Array, sink: number): void {
  const peak = row.reduce((a, b) => Math.max(a, b), sink);
  if (peak === -Infinity) {
    row.fill(0);
    return;
  }
  let total = Math.exp(sink - peak);
  for (let i = 0; i < row.length; i++) total += row[i] = Math.exp(row[i]! - peak);
  for (let i = 0; i < row.length; i++) row[i]! /= total;
}

export function glu(out: Tensor, x: Tensor, options: GluOptions): void {
  const { activation, clamped, interleaved } = options;
  const from = floats(x);
  const to = floats(out);
  const { width } = out;
  const f = UNARY[activation];
  for (let i = 0; i < to.length; i++) {
    const row = Math.floor(i / width) * 2 * width;
    const column = i % width;
    const gate = from[row + (interleaved ? 2 * column : column)]!;
    const up = from[row + (interleaved ? 2 * column + 1 : width + column)]!;
    if (clamped) {
      const { alpha, limit } = clamped;
      const g = Math.min(gate, limit);
      to[i] = (g / (1 + Math.exp(-alpha * g))) * (Math.min(Math.max(up, -limit), limit) + 1);
    } else {
      to[i] = f(gate, 0, 0) * up;
    }
  }
}

export function rope(x: Tensor, cosSin: Tensor, options: RopeOptions): void {
  const data = floats(x);
  const table = floats(cosSin);
  const { headDim } = options;
  const { width } = x;
  for (let r = 0; r < x.rowCount; r++) {
    for (let h = 0; h < width / headDim; h++) rotate(data, r * width + h * headDim, table, r, options);
  }
}

/** Rotates the head at `data[at]` by row `row` of the table. */
export function rotate(data: Float32Array, at: number, table: Float32Array, row: number, o: RopeOptions): void {
  const half = o.rotaryDim / 2;
  for (let i = 0; i < half; i++) {
    const first = at + (o.interleaved ? 2 * i : i);
    const second = at + (o.interleaved ? 2 * i + 1 : half + i);
    const cos = table[row * o.rotaryDim + i]!;
    const sin = table[row * o.rotaryDim + half + i]!;
    const a = data[first]!;
    const b = data[second]!;
    data[first] = a * cos - b * sin;
    data[second] = b * cos + a * sin;
  }
}
