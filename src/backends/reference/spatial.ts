import type { ConvOptions, PoolOptions, ResizeOptions } from '../../core/backend.ts';
import type { Tensor } from '../../core/tensor.ts';
import { floats } from './memory.ts';

/** Sizes, strides and the like as depth, height, width: missing leading axes are filled. */
function three(list: readonly number[], missing: number): [number, number, number] {
  const full = [...new Array<number>(3 - list.length).fill(missing), ...list];
  return full as [number, number, number];
}

/** The pairs of input, output and kernel positions that one axis connects. */
function taps(input: number, output: number, kernel: number, stride: number, padding: number, dilation: number) {
  const list: { readonly i: number; readonly o: number; readonly k: number }[] = [];
  for (let o = 0; o < output; o++) {
    for (let k = 0; k < kernel; k++) {
      const i = o * stride - padding + k * dilation;
      if (i >= 0 && i < input) list.push({ i, o, k });
    }
  }
  return list;
}

/** `big` is the strided-over side (input of a convolution, output of its transpose), `small` the other one. */
function tapsOf(big: Tensor, small: Tensor, w: Tensor, options: ConvOptions) {
  const bigSize = three(big.shape.slice(2), 1);
  const smallSize = three(small.shape.slice(2), 1);
  const kernel = three(w.shape.slice(2), 1);
  const stride = three(options.stride, 1);
  const padding = three(options.padding, 0);
  const dilation = three(options.dilation, 1);
  const axis = (a: 0 | 1 | 2) => taps(bigSize[a], smallSize[a], kernel[a], stride[a], padding[a], dilation[a]);
  return { axes: [axis(0), axis(1), axis(2)] as const, bigSize, smallSize, kernel };
}

const flat = (size: readonly number[], d: number, h: number, w: number) => (d * size[1]! + h) * size[2]! + w;
const volume = (size: readonly number[]) => size[0]! * size[1]! * size[2]!;

export function conv(out: Tensor, x: Tensor, w: Tensor, options: ConvOptions): void {
  const { axes, bigSize, smallSize, kernel } = tapsOf(x, out, w, options);
  const from = floats(x);
  const weight = floats(w);
  const to = floats(out);
  const bias = options.bias && floats(options.bias);
  const [batch, features] = out.shape as [number, number];
  const channels = x.shape[1]!;
  const perGroup = w.shape[1]!;
  const sum = new Float64Array(volume(smallSize));
  for (let b = 0; b < batch; b++) {
    for (let f = 0; f < features; f++) {
      sum.fill(bias ? bias[f]! : 0);
      const firstChannel = Math.floor((f * options.groups) / features) * perGroup;
      for (let c = 0; c < perGroup; c++) {
        const plane = (b * channels + firstChannel + c) * volume(bigSize);
        const taps0 = (f * perGroup + c) * volume(kernel);
        for (const d of axes[0]) {
          for (const h of axes[1]) {
            for (const v of axes[2]) {
              sum[flat(smallSize, d.o, h.o, v.o)]! +=
                from[plane + flat(bigSize, d.i, h.i, v.i)]! * weight[taps0 + flat(kernel, d.k, h.k, v.k)]!;
            }
          }
        }
      }
      to.set(sum, (b * features + f) * sum.length);
    }
  }
}

export function convTranspose(out: Tensor, x: Tensor, w: Tensor, options: ConvOptions): void {
  const { axes, bigSize, smallSize, kernel } = tapsOf(out, x, w, options);
  const from = floats(x);
  const weight = floats(w);
  const to = floats(out);
  const bias = options.bias && floats(options.bias);
  const [batch, features] = out.shape as [number, number];
  const channels = x.shape[1]!;
  const perGroup = w.shape[1]!;
  const channelsPerGroup = channels / options.groups;
  const sum = new Float64Array(volume(bigSize));
  for (let b = 0; b < batch; b++) {
    for (let f = 0; f < features; f++) {
      sum.fill(bias ? bias[f]! : 0);
      const group = Math.floor(f / perGroup);
      for (let c = group * channelsPerGroup; c < (group + 1) * channelsPerGroup; c++) {
        const plane = (b * channels + c) * volume(smallSize);
        const taps0 = (c * perGroup + (f % perGroup)) * volume(kernel);
        for (const d of axes[0]) {
          for (const h of axes[1]) {
            for (const v of axes[2]) {
              sum[flat(bigSize, d.i, h.i, v.i)]! +=
                from[plane + flat(smallSize, d.o, h.o, v.o)]! * weight[taps0 + flat(kernel, d.k, h.k, v.k)]!;
            }
          }
        }
      }
      to.set(sum, (b * features + f) * sum.length);
    }
  }
}

export function pool(out: Tensor, x: Tensor, options: PoolOptions): void {
  const { kind, size, stride } = options;
  const lead = x.shape.length - size.length;
  const input = three(x.shape.slice(lead), 1);
  const output = three(out.shape.slice(lead), 1);
  const window = three(size, 1);
  const step = three(stride, 1);
  const from = floats(x);
  const to = floats(out);
  const axis = (a: 0 | 1 | 2) => taps(input[a], output[a], window[a], step[a], 0, 1);
  const axes = [axis(0), axis(1), axis(2)] as const;
  const result = new Float64Array(volume(output));
  for (let plane = 0; plane < out.size / result.length; plane++) {
    result.fill(kind === 'max' ? -Infinity : 0);
    for (const d of axes[0]) {
      for (const h of axes[1]) {
        for (const v of axes[2]) {
          const value = from[plane * volume(input) + flat(input, d.i, h.i, v.i)]!;
          const o = flat(output, d.o, h.o, v.o);
          result[o] = kind === 'max' ? Math.max(result[o]!, value) : result[o]! + value / volume(window);
        }
      }
    }
    to.set(result, plane * result.length);
  }
}

/** Sources and factors of one output position; positions beyond the edge repeat the edge. */
function samples(at: number, output: number, input: number, o: ResizeOptions): { at: number; factor: number }[] {
  const edge = (i: number) => Math.min(input - 1, Math.max(0, i));
  if (o.mode === 'nearest') return [{ at: edge(Math.floor((at * input) / output)), factor: 1 }];
  const centre = o.alignCorners
    ? output > 1
      ? (at * (input - 1)) / (output - 1)
      : 0
    : ((at + 0.5) * input) / output - 0.5;
  const base = Math.floor(centre);
  if (o.mode === 'bilinear') {
    const rest = centre - base;
    return [
      { at: edge(base), factor: 1 - rest },
      { at: edge(base + 1), factor: rest },
    ];
  }
  return [-1, 0, 1, 2].map((i) => ({ at: edge(base + i), factor: cubic(Math.abs(centre - (base + i))) }));
}

/** Keys' cubic kernel with a = -0.75. */
function cubic(d: number): number {
  const a = -0.75;
  if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

export function resize(out: Tensor, x: Tensor, options: ResizeOptions): void {
  const from = floats(x);
  const to = floats(out);
  const [, , height, width] = x.shape as [number, number, number, number];
  const [, , outHeight, outWidth] = out.shape as [number, number, number, number];
  const columns = Array.from({ length: outWidth }, (_, i) => samples(i, outWidth, width, options));
  for (let plane = 0; plane < out.size / (outHeight * outWidth); plane++) {
    for (let i = 0; i < outHeight; i++) {
      const rows = samples(i, outHeight, height, options);
      for (let j = 0; j < outWidth; j++) {
        let total = 0;
        for (const r of rows) {
          for (const c of columns[j]!) total += r.factor * c.factor * from[(plane * height + r.at) * width + c.at]!;
        }
        to[(plane * outHeight + i) * outWidth + j] = total;
      }
    }
  }
}
