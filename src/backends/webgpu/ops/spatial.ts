import type { ConvOptions, OptionalOps, PoolOptions, RequiredOps, ResizeOptions } from '../../../core/backend.ts';
import type { Shape, Tensor } from '../../../core/tensor.ts';
import { kernels, lazy, type OpHost } from '../host.ts';
import type { Kernel, KernelSource } from '../kernel.ts';
import type { Recorder } from '../recorder.ts';
import { ITEM, LANES } from '../wgsl.ts';

const AXES = ['d', 'h', 'w'] as const;
const perAxis = (names: readonly string[], type: 'u32' | 'i32') =>
  names.flatMap((name) => AXES.map((axis) => [`${name}_${axis}`, type] as const));

/** Depth, height and width, missing leading axes filled. */
function three(list: readonly number[], missing: number): readonly [number, number, number] {
  const n = list.length;
  return [n > 2 ? (list[n - 3] as number) : missing, n > 1 ? (list[n - 2] as number) : missing, list[n - 1] as number];
}

function put(recorder: Recorder, list: readonly number[], missing: number): Recorder {
  const [d, h, w] = three(list, missing);
  return recorder.i(d).i(h).i(w);
}

/** Batch, channel and position of an entry of `out`. */
const POSITION = `
var rest = item;
let ow = i32(rest % u32(p.out_w)); rest /= u32(p.out_w);
let oh = i32(rest % u32(p.out_h)); rest /= u32(p.out_h);
let od = i32(rest % u32(p.out_d)); rest /= u32(p.out_d);
let channel = rest % p.features;
let batch = rest / p.features;`;

const convNumbers = [
  ['n', 'u32'],
  ['channels', 'u32'],
  ['features', 'u32'],
  ['group_in', 'u32'],
  ['group_out', 'u32'],
  ['has_bias', 'u32'],
  ...perAxis(['in', 'out', 'kernel', 'stride', 'padding', 'dilation'], 'i32'),
] as const;

/** One entry of `out` per lane. */
const convSource = (): KernelSource => ({
  label: 'convolution',
  reads: [
    ['x', 'f32'],
    ['w', 'f32'],
    ['bias', 'f32'],
  ],
  writes: [['out', 'f32']],
  numbers: convNumbers,
  workgroup: [LANES, 1, 1],
  body: `${ITEM}
if (item >= p.n) { return; }
${POSITION}
let volume = u32(p.in_d * p.in_h * p.in_w);
let taps = u32(p.kernel_d * p.kernel_h * p.kernel_w);
var sum = 0.0;
if (p.has_bias == 1u) { sum = bias(channel); }
for (var c = 0u; c < p.group_in; c++) {
  let plane = (batch * p.channels + channel / p.group_out * p.group_in + c) * volume;
  let tap0 = (channel * p.group_in + c) * taps;
  for (var kd = 0; kd < p.kernel_d; kd++) {
    let d = od * p.stride_d - p.padding_d + kd * p.dilation_d;
    if (d < 0 || d >= p.in_d) { continue; }
    for (var kh = 0; kh < p.kernel_h; kh++) {
      let h = oh * p.stride_h - p.padding_h + kh * p.dilation_h;
      if (h < 0 || h >= p.in_h) { continue; }
      for (var kw = 0; kw < p.kernel_w; kw++) {
        let v = ow * p.stride_w - p.padding_w + kw * p.dilation_w;
        if (v < 0 || v >= p.in_w) { continue; }
        sum += x(plane + u32((d * p.in_h + h) * p.in_w + v)) * w(tap0 + u32((kd * p.kernel_h + kh) * p.kernel_w + kw));
      }
    }
  }
}
set_out(item, sum);`,
});

/** One entry of `out` per lane, gathered from the inputs that reach it. */
const convTransposeSource = (): KernelSource => ({
  ...convSource(),
  label: 'transposed convolution',
  body: `${ITEM}
if (item >= p.n) { return; }
${POSITION}
let volume = u32(p.in_d * p.in_h * p.in_w);
let taps = u32(p.kernel_d * p.kernel_h * p.kernel_w);
let group = channel / p.group_out;
var sum = 0.0;
if (p.has_bias == 1u) { sum = bias(channel); }
for (var c = 0u; c < p.group_in; c++) {
  let input = group * p.group_in + c;
  let plane = (batch * p.channels + input) * volume;
  let tap0 = (input * p.group_out + channel % p.group_out) * taps;
  for (var kd = 0; kd < p.kernel_d; kd++) {
    let d = od + p.padding_d - kd * p.dilation_d;
    if (d < 0 || d % p.stride_d != 0 || d / p.stride_d >= p.in_d) { continue; }
    for (var kh = 0; kh < p.kernel_h; kh++) {
      let h = oh + p.padding_h - kh * p.dilation_h;
      if (h < 0 || h % p.stride_h != 0 || h / p.stride_h >= p.in_h) { continue; }
      for (var kw = 0; kw < p.kernel_w; kw++) {
        let v = ow + p.padding_w - kw * p.dilation_w;
        if (v < 0 || v % p.stride_w != 0 || v / p.stride_w >= p.in_w) { continue; }
        let at = (d / p.stride_d * p.in_h + h / p.stride_h) * p.in_w + v / p.stride_w;
        sum += x(plane + u32(at)) * w(tap0 + u32((kd * p.kernel_h + kh) * p.kernel_w + kw));
      }
    }
  }
}
set_out(item, sum);`,
});

const poolSource = (kind: PoolOptions['kind']): KernelSource => ({
  label: `${kind} pool`,
  reads: [['x', 'f32']],
  writes: [['out', 'f32']],
  numbers: [['n', 'u32'], ['features', 'u32'], ...perAxis(['in', 'out', 'size', 'stride'], 'i32')],
  workgroup: [LANES, 1, 1],
  body: `${ITEM}
if (item >= p.n) { return; }
${POSITION}
let plane = (batch * p.features + channel) * u32(p.in_d * p.in_h * p.in_w);
var total = ${kind === 'max' ? 'x(plane + u32((od * p.stride_d * p.in_h + oh * p.stride_h) * p.in_w + ow * p.stride_w))' : '0.0'};
for (var kd = 0; kd < p.size_d; kd++) {
  for (var kh = 0; kh < p.size_h; kh++) {
    for (var kw = 0; kw < p.size_w; kw++) {
      let v = x(plane + u32(((od * p.stride_d + kd) * p.in_h + oh * p.stride_h + kh) * p.in_w + ow * p.stride_w + kw));
      total = ${kind === 'max' ? 'max(total, v)' : 'total + v'};
    }
  }
}
set_out(item, ${kind === 'max' ? 'total' : 'total / f32(p.size_d * p.size_h * p.size_w)'});`,
});

/** Neighbours and their factors along one axis; positions beyond the edge repeat the edge. Cubic: Keys, a = -0.75. */
const TAPS: Readonly<
  Record<ResizeOptions['mode'], { readonly count: number; readonly first: string; readonly factor: string }>
> = {
  nearest: { count: 1, first: 'i32(at * size / out_size)', factor: '1.0' },
  bilinear: {
    count: 2,
    first: 'i32(floor(centre))',
    factor: 'select(centre - floor(centre), 1.0 - centre + floor(centre), i == 0)',
  },
  bicubic: { count: 4, first: 'i32(floor(centre)) - 1', factor: 'cubic(abs(centre - floor(centre) + 1.0 - f32(i)))' },
};

function resizeSource(mode: ResizeOptions['mode']): KernelSource {
  const { count, first, factor } = TAPS[mode];
  return {
    label: `resize ${mode}`,
    reads: [['x', 'f32']],
    writes: [['out', 'f32']],
    numbers: [
      ['n', 'u32'],
      ['in_h', 'u32'],
      ['in_w', 'u32'],
      ['out_h', 'u32'],
      ['out_w', 'u32'],
      ['align', 'u32'],
    ],
    workgroup: [LANES, 1, 1],
    declarations: `
fn cubic(d: f32) -> f32 {
  if (d <= 1.0) { return (1.25 * d - 2.25) * d * d + 1.0; }
  if (d < 2.0) { return ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0; }
  return 0.0;
}
fn centre_of(at: u32, size: u32, out_size: u32) -> f32 {
  if (p.align == 1u) { return select(0.0, f32(at * (size - 1u)) / f32(max(out_size, 2u) - 1u), out_size > 1u); }
  return (f32(at) + 0.5) * f32(size) / f32(out_size) - 0.5;
}
fn first_of(at: u32, size: u32, out_size: u32) -> i32 { let centre = centre_of(at, size, out_size); return ${first}; }
fn factor_of(at: u32, size: u32, out_size: u32, i: i32) -> f32 { let centre = centre_of(at, size, out_size); return ${factor}; }
fn edge(i: i32, size: u32) -> u32 { return u32(clamp(i, 0, i32(size) - 1)); }`,
    body: `${ITEM}
if (item >= p.n) { return; }
let column = item % p.out_w;
let row = item / p.out_w % p.out_h;
let plane = item / (p.out_w * p.out_h) * p.in_h * p.in_w;
let first_row = first_of(row, p.in_h, p.out_h);
let first_column = first_of(column, p.in_w, p.out_w);
var total = 0.0;
for (var i = 0; i < ${count}; i++) {
  let line = plane + edge(first_row + i, p.in_h) * p.in_w;
  let weight = factor_of(row, p.in_h, p.out_h, i);
  for (var j = 0; j < ${count}; j++) {
    total += weight * factor_of(column, p.in_w, p.out_w, j) * x(line + edge(first_column + j, p.in_w));
  }
}
set_out(item, total);`,
  };
}

type SpatialOps = Pick<RequiredOps, 'conv' | 'resize'> & Pick<OptionalOps, 'convTranspose' | 'pool'>;

export function spatialOps(host: OpHost): SpatialOps {
  const { recorder } = host;
  const pools = kernels(host, poolSource);
  const resizes = kernels(host, resizeSource);
  const spatial = (shape: Shape) => shape.slice(2);
  const convolution =
    (kernel: () => Kernel) =>
    (out: Tensor, x: Tensor, w: Tensor, o: ConvOptions): void => {
      const channels = x.shape[1] as number;
      const features = out.shape[1] as number;
      const { bias, groups } = o;
      recorder.start(kernel()).bind(x).bind(w);
      recorder.bind(bias ?? w).bind(out);
      recorder.u(out.size).u(channels).u(features);
      recorder.u(channels / groups).u(features / groups);
      recorder.u(bias ? 1 : 0);
      put(recorder, spatial(x.shape), 1);
      put(recorder, spatial(out.shape), 1);
      put(recorder, spatial(w.shape), 1);
      put(recorder, o.stride, 1);
      put(recorder, o.padding, 0);
      put(recorder, o.dilation, 1);
      recorder.dispatchItems(out.size, LANES);
    };
  return {
    conv: convolution(lazy(host, convSource)),
    convTranspose: convolution(lazy(host, convTransposeSource)),
    pool(out, x, options) {
      const lead = x.rank - options.size.length;
      recorder.start(pools(options.kind)).bind(x).bind(out).u(out.size).u(1);
      put(recorder, x.shape.slice(lead), 1);
      put(recorder, out.shape.slice(lead), 1);
      put(recorder, options.size, 1);
      put(recorder, options.stride, 1);
      recorder.dispatchItems(out.size, LANES);
    },
    resize(out, x, options) {
      const [, , height, width] = x.shape as readonly [number, number, number, number];
      const [, , outHeight, outWidth] = out.shape as readonly [number, number, number, number];
      recorder.start(resizes(options.mode)).bind(x).bind(out);
      recorder
        .u(out.size)
        .u(height)
        .u(width)
        .u(outHeight)
        .u(outWidth)
        .u(options.alignCorners ? 1 : 0);
      recorder.dispatchItems(out.size, LANES);
    },
  };
}
