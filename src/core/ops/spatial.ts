import type { ConvOptions, PoolOptions } from '../backend.ts';
import { composedConvTranspose, composedPool } from '../composed/spatial.ts';
import type { Tensor } from '../tensor.ts';
import { needF32, needVector, refuse } from './check.ts';
import { checkConv } from './conv.ts';

/** The transpose of `conv`: `w` is `[channels, out / groups, …kernel]`. */
export function convTranspose(x: Tensor, w: Tensor, options: ConvOptions): Tensor {
  checkConv('convTranspose', x, w, options);
  const [batch, channels] = x.shape as [number, number];
  const { groups, stride, padding, dilation, outputPadding } = options;
  const features = (w.shape[1] as number) * groups;
  if (w.shape[0] !== channels || channels % groups !== 0) {
    refuse('convTranspose', `w [${channels}, out / ${groups}, …kernel]`, w);
  }
  needVector('convTranspose', 'bias', options.bias, features);
  const spatial = x.shape.slice(2).map((n, i) => {
    const reach = (dilation[i] as number) * ((w.shape[i + 2] as number) - 1) + 1;
    return (n - 1) * (stride[i] as number) - 2 * (padding[i] as number) + reach + (outputPadding?.[i] ?? 0);
  });
  if (spatial.some((n) => n < 1)) refuse('convTranspose', 'a padding below the size of the result', x, w);
  const out = x.backend.alloc([batch, features, ...spatial], 'f32');
  const { ops } = x.backend;
  if (out.size) {
    if (ops.convTranspose) ops.convTranspose(out, x, w, options);
    else composedConvTranspose(out, x, w, options);
  }
  return out;
}

/** Largest or mean value of windows over the last `size.length` axes; windows lie wholly inside. */
export function pool(x: Tensor, options: PoolOptions): Tensor {
  needF32('pool', 'x', x);
  const { size, stride } = options;
  const lead = x.shape.length - size.length;
  const whole = (n: number) => Number.isInteger(n) && n >= 1;
  if (
    lead < 0 ||
    size.length < 1 ||
    size.length > 3 ||
    stride.length !== size.length ||
    !size.every(whole) ||
    !stride.every(whole)
  ) {
    refuse('pool', `sizes and strides for 1 to ${Math.min(3, x.shape.length)} axes`, `[${size}] and [${stride}]`);
  }
  const shape = x.shape.map((n, i) =>
    i < lead ? n : Math.floor((n - (size[i - lead] as number)) / (stride[i - lead] as number)) + 1,
  );
  if (shape.some((n, i) => i >= lead && n < 1)) refuse('pool', `at least [${size}] values`, x);
  const out = x.backend.alloc(shape, 'f32');
  const { ops } = x.backend;
  if (out.size) {
    if (ops.pool) ops.pool(out, x, options);
    else composedPool(out, x, options);
  }
  return out;
}
