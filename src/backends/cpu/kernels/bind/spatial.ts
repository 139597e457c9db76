import type { ConvOptions, OptionalOps, RequiredOps } from '../../../../core/backend.ts';
import { composedConvTranspose } from '../../../../core/composed/spatial.ts';
import type { Tensor } from '../../../../core/tensor.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { convLines, unfold } from '../conv.ts';
import { fold, pool } from '../fold.ts';
import { matmul, matmulTransposed } from '../matmul.ts';
import { RESIZE_MODES, resize } from '../resize.ts';

export const spatialKernels = [matmul, matmulTransposed, unfold, convLines, fold, pool, resize] as readonly Kernel[];

/** Floats of unfolded input held at a time. */
const UNFOLDED = 1 << 18;
/** Floats of the taps of a transposed convolution held at a time. */
const UNFOLDED_TAPS = 1 << 20;
/** Output channels from which a convolution is worth a matrix product. */
const LEAST_FEATURES = 4;

/** Addresses, batch strides in bytes, and sizes of a product. */
interface Product {
  readonly out: number;
  readonly a: number;
  readonly b: number;
  readonly batch: number;
  readonly aBatch: number;
  readonly bBatch: number;
  readonly outBatch: number;
  readonly outRow: number;
  readonly aRow: number;
  readonly aStep: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly bias: number;
}

type SpatialOps = Pick<RequiredOps, 'matmul' | 'conv' | 'resize'> & Pick<OptionalOps, 'convTranspose' | 'pool'>;

export function spatialOps(host: OpHost): SpatialOps {
  const plainEntry = host.entry(matmul as Kernel);
  const transposedEntry = host.entry(matmulTransposed as Kernel);
  const unfoldEntry = host.entry(unfold as Kernel);
  const linesEntry = host.entry(convLines as Kernel);
  const foldEntry = host.entry(fold as Kernel);
  const poolEntry = host.entry(pool as Kernel);
  const resizeEntry = host.entry(resize as Kernel);

  const multiply = (entry: number, p: Product): void => {
    const { at } = matmul;
    const c = host.begin(entry);
    const { words } = host;
    for (const key of PRODUCT_KEYS) words[c + at[key]] = p[key];
  };

  const setSizes = (at: Readonly<Record<(typeof SIZE_KEYS)[number], number>>, c: number, sizes: readonly number[]) => {
    SIZE_KEYS.forEach((key, i) => {
      host.words[c + at[key]] = sizes[i]!;
    });
  };

  const convByProducts = (out: Tensor, x: Tensor, w: Tensor, options: ConvOptions): void => {
    const [batch, channels] = x.shape as readonly [number, number];
    const features = w.shape[0]!;
    const k = w.size / features;
    const positions = out.size / (batch * features);
    const sizes = sizesOf(out, x, w, options);
    const step = Math.max(1, Math.min(positions, Math.floor(UNFOLDED / k)));
    const columns = host.scratch(step * k * 4);
    for (let image = 0; image < batch; image++) {
      for (let first = 0; first < positions; first += step) {
        const count = Math.min(step, positions - first);
        const c = host.begin(unfoldEntry);
        const { at } = unfold;
        host.words[c + at.columns] = columns;
        host.words[c + at.x] = host.address(x) + ((image * x.size) / batch) * 4;
        host.words[c + at.channels] = channels;
        host.words[c + at.first] = first;
        host.words[c + at.count] = count;
        setSizes(at, c, sizes);
        multiply(transposedEntry, {
          ...{ out: host.address(out) + (image * features * positions + first) * 4, outRow: positions * 4 },
          ...{ a: host.address(w), b: columns, batch: 1, aBatch: 0, bBatch: 0, outBatch: 0, aRow: k * 4, aStep: 4 },
          ...{ m: features, n: count, k, bias: options.bias ? host.address(options.bias) : 0 },
        });
      }
    }
  };

  return {
    matmul(out, a, b, transposed) {
      const [m, k, n] = [a.dim(-2), a.width, out.width];
      multiply(transposed ? transposedEntry : plainEntry, {
        ...{ out: host.address(out), a: host.address(a), b: host.address(b), batch: a.size / (m * k), m, n, k },
        ...{ aBatch: m * k * 4, bBatch: n * k * 4, outBatch: m * n * 4, outRow: n * 4, aRow: k * 4, aStep: 4, bias: 0 },
      });
    },
    conv(out, x, w, options) {
      const [batch, channels] = x.shape as readonly [number, number];
      const [features, perGroup] = w.shape as readonly [number, number];
      if (options.groups === 1 && features >= LEAST_FEATURES) {
        convByProducts(out, x, w, options);
        return;
      }
      const sizes = sizesOf(out, x, w, options);
      const c = host.begin(linesEntry);
      const { at } = convLines;
      host.words[c + at.out] = host.address(out);
      host.words[c + at.x] = host.address(x);
      host.words[c + at.w] = host.address(w);
      host.words[c + at.bias] = options.bias ? host.address(options.bias) : 0;
      host.words[c + at.batch] = batch;
      host.words[c + at.channels] = channels;
      host.words[c + at.features] = features;
      host.words[c + at.perGroup] = perGroup;
      setSizes(at, c, sizes);
    },
    convTranspose(out, x, w, options) {
      const [batch, channels] = x.shape as readonly [number, number];
      const features = out.shape[1]!;
      if (options.groups !== 1) {
        composedConvTranspose(out, x, w, options);
        return;
      }
      const taps = w.size / (channels * features);
      const positions = x.size / (batch * channels);
      const plane = out.size / (batch * features);
      const sizes = sizesOf(out, x, w, options);
      const step = Math.max(1, Math.min(features, Math.floor(UNFOLDED_TAPS / (taps * positions))));
      const columns = host.scratch(step * taps * positions * 4);
      for (let image = 0; image < batch; image++) {
        for (let first = 0; first < features; first += step) {
          const count = Math.min(step, features - first);
          // Rows of the product are taps: the weight is read as its transpose.
          multiply(plainEntry, {
            ...{ out: columns, outRow: positions * 4, a: host.address(w) + first * taps * 4, bias: 0 },
            ...{ aRow: 4, aStep: features * taps * 4, b: host.address(x) + image * channels * positions * 4 },
            ...{ batch: 1, aBatch: 0, bBatch: 0, outBatch: 0, m: count * taps, n: positions, k: channels },
          });
          const { at } = fold;
          const c = host.begin(foldEntry);
          host.words[c + at.out] = host.address(out) + (image * features + first) * plane * 4;
          host.words[c + at.columns] = columns;
          host.words[c + at.bias] = options.bias ? host.address(options.bias) + first * 4 : 0;
          host.words[c + at.features] = count;
          setSizes(at, c, sizes);
        }
      }
    },
    pool(out, x, options) {
      const lead = x.shape.length - options.size.length;
      const three = (list: readonly number[]) => [...new Array<number>(3 - list.length).fill(1), ...list];
      const [input, output] = [three(x.shape.slice(lead)), three(out.shape.slice(lead))];
      const { at } = pool;
      const c = host.begin(poolEntry);
      host.words[c + at.out] = host.address(out);
      host.words[c + at.x] = host.address(x);
      host.words[c + at.planes] = out.size / (output[0]! * output[1]! * output[2]!);
      host.words[c + at.mean] = options.kind === 'mean' ? 1 : 0;
      const none = [0, 0, 0];
      setSizes(at, c, [...input, ...three(options.size), ...output, ...three(options.stride), ...none, 1, 1, 1]);
    },
    resize(out, x, options) {
      const [batch, channels, inH, inW] = x.shape as readonly [number, number, number, number];
      const { at } = resize;
      const c = host.begin(resizeEntry);
      const { words } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.planes] = batch * channels;
      words[c + at.inH] = inH;
      words[c + at.inW] = inW;
      words[c + at.outH] = out.dim(2);
      words[c + at.outW] = out.dim(3);
      words[c + at.taps] = RESIZE_MODES[options.mode];
      words[c + at.alignCorners] = options.alignCorners ? 1 : 0;
    },
  };
}

const PRODUCT_KEYS = [
  ...([
    'out',
    'a',
    'b',
    'batch',
    'aBatch',
    'bBatch',
    'outBatch',
    'outRow',
    'aRow',
    'aStep',
    'm',
    'n',
    'k',
    'bias',
  ] as const),
];
const SIZE_KEYS = [
  ...(['inD', 'inH', 'inW', 'kD', 'kH', 'kW', 'outD', 'outH', 'outW'] as const),
  ...(['strideD', 'strideH', 'strideW', 'padD', 'padH', 'padW', 'stepD', 'stepH', 'stepW'] as const),
];

/** Input, kernel, output, stride, padding and dilation as depth, height, width, in the order of `SIZE_KEYS`. */
function sizesOf(out: Tensor, x: Tensor, w: Tensor, o: ConvOptions): number[] {
  const three = (list: readonly number[], missing: number) => [
    ...new Array<number>(3 - list.length).fill(missing),
    ...list,
  ];
  return [
    ...three(x.shape.slice(2), 1),
    ...three(w.shape.slice(2), 1),
    ...three(out.shape.slice(2), 1),
    ...three(o.stride, 1),
    ...three(o.padding, 0),
    ...three(o.dilation, 1),
  ];
}
