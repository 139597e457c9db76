import type { ConvOptions, PoolOptions } from '../backend.ts';
import { binaryInto, scaleInto } from '../ops/elementwise.ts';
import { pad, permute, slice } from '../ops/layout.ts';
import type { Tensor } from '../tensor.ts';
import { copy } from './basics.ts';

/** A convolution with the flipped kernel over the input spread out by `stride`. */
export function composedConvTranspose(out: Tensor, x: Tensor, w: Tensor, options: ConvOptions): void {
  const { stride, padding, dilation, groups } = options;
  const [channels, perGroup, ...kernel] = w.shape as [number, number, ...number[]];
  x.backend.scope(() => {
    let spread = x;
    let flipped = swapGroups(w, groups, channels, perGroup, kernel);
    kernel.forEach((size, i) => {
      const axis = i + 2;
      const reach = (dilation[i] as number) * (size - 1);
      flipped = slice(flipped, axis, size - 1, -1, -1);
      spread = spreadAxis(spread, axis, stride[i] as number);
      const n = spread.shape[axis] as number;
      const before = reach - (padding[i] as number);
      const after = (out.shape[axis] as number) + reach - n - before;
      spread = crop(spread, axis, Math.max(0, -before), n - Math.max(0, -after));
      const around = (count: number) => spread.shape.map((_, a) => (a === axis ? Math.max(0, count) : 0));
      spread = pad(spread, around(before), around(after));
    });
    const plain = { ...options, stride: stride.map(() => 1), padding: padding.map(() => 0) };
    x.backend.ops.conv(out, spread, flipped, plain);
  });
}

/** `[channels, out / groups, …]` → `[out, channels / groups, …]`. */
function swapGroups(w: Tensor, groups: number, channels: number, perGroup: number, kernel: readonly number[]): Tensor {
  const taps = kernel.reduce((n, k) => n * k, 1);
  const parts = w.reshape([groups, channels / groups, perGroup, taps]);
  return permute(parts, [0, 2, 1, 3]).reshape([groups * perGroup, channels / groups, ...kernel]);
}

/** `stride - 1` zeros between neighbours of an axis. */
function spreadAxis(x: Tensor, axis: number, stride: number): Tensor {
  if (stride === 1) return x;
  const n = x.shape[axis] as number;
  const before = x.shape.slice(0, axis).reduce((a, b) => a * b, 1);
  const after = x.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const apart = pad(x.reshape([before, n, 1, after]), [0, 0, 0, 0], [0, 0, stride - 1, 0]);
  const shape = [...x.shape];
  shape[axis] = n * stride;
  return slice(apart.reshape(shape), axis, 0, (n - 1) * stride + 1);
}

function crop(x: Tensor, axis: number, start: number, end: number): Tensor {
  return start === 0 && end === x.shape[axis] ? x : slice(x, axis, start, end);
}

/** Every tap of the window is a strided slice. */
export function composedPool(out: Tensor, x: Tensor, options: PoolOptions): void {
  const { kind, size, stride } = options;
  const lead = x.shape.length - size.length;
  const taps = size.reduce((n, k) => n * k, 1);
  x.backend.scope(() => {
    let total: Tensor | undefined;
    for (let tap = 0; tap < taps; tap++) {
      let part = x;
      let rest = tap;
      for (let i = size.length - 1; i >= 0; i--) {
        const offset = rest % (size[i] as number);
        rest = Math.floor(rest / (size[i] as number));
        const step = stride[i] as number;
        part = slice(part, lead + i, offset, offset + ((out.shape[lead + i] as number) - 1) * step + 1, step);
      }
      total = total ? binaryInto(kind === 'max' ? 'max' : 'add', total, part) : part;
    }
    if (total) copy(out, kind === 'mean' ? scaleInto(total, 1 / taps) : total);
  });
}
