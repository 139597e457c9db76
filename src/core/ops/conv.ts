import type { ConvOptions, ResizeOptions } from '../backend.ts';
import type { Tensor } from '../tensor.ts';
import { needF32, needVector, refuse } from './check.ts';

/** Convolution over 1 to 3 spatial axes: `x` `[batch, channels, …spatial]`, `w` `[out, channels / groups, …kernel]`. */
export function conv(x: Tensor, w: Tensor, options: ConvOptions): Tensor {
  checkConv('conv', x, w, options);
  const [batch, channels] = x.shape as [number, number];
  const [features, perGroup] = w.shape as [number, number];
  const { groups, stride, padding, dilation } = options;
  if (perGroup * groups !== channels || features % groups !== 0) {
    refuse('conv', `w [out, ${channels} / ${groups}, …kernel]`, w);
  }
  needVector('conv', 'bias', options.bias, features);
  const spatial = x.shape.slice(2).map((n, i) => {
    const reach = (dilation[i] as number) * ((w.shape[i + 2] as number) - 1) + 1;
    return Math.floor((n + 2 * (padding[i] as number) - reach) / (stride[i] as number)) + 1;
  });
  if (spatial.some((n) => n < 1)) refuse('conv', 'a kernel that fits into the padded input', x, w);
  const out = x.backend.alloc([batch, features, ...spatial], 'f32');
  if (out.size) x.backend.ops.conv(out, x, w, options);
  return out;
}

/** `[batch, channels, height, width]` at another height and width. */
export function resize(x: Tensor, height: number, width: number, options: ResizeOptions): Tensor {
  needF32('resize', 'x', x);
  const whole = (n: number) => Number.isInteger(n) && n >= 1;
  if (x.shape.length !== 4 || x.size === 0 || !whole(height) || !whole(width)) {
    refuse('resize', '[batch, channels, height, width] and a positive size', x, `${height}×${width}`);
  }
  const out = x.backend.alloc([x.shape[0] as number, x.shape[1] as number, height, width], 'f32');
  x.backend.ops.resize(out, x, options);
  return out;
}

export function checkConv(op: string, x: Tensor, w: Tensor, o: ConvOptions): void {
  needF32(op, 'x', x);
  needF32(op, 'w', w);
  const axes = x.shape.length - 2;
  if (axes < 1 || axes > 3 || w.shape.length !== axes + 2) {
    refuse(op, 'x [batch, channels, …spatial] and w with 1 to 3 spatial axes', x, w);
  }
  const whole = (list: readonly number[], least: number) =>
    list.length === axes && list.every((n) => Number.isInteger(n) && n >= least);
  if (!whole(o.stride, 1) || !whole(o.padding, 0) || !whole(o.dilation, 1) || !(o.groups >= 1)) {
    refuse(op, `${axes} strides, paddings and dilations`, `[${o.stride}], [${o.padding}] and [${o.dilation}]`);
  }
  if (o.outputPadding !== undefined && !whole(o.outputPadding, 0)) {
    refuse(op, `${axes} output paddings`, `[${o.outputPadding}]`);
  }
  if (x.size === 0 || w.size === 0) refuse(op, 'non-empty x and w', x, w);
}
