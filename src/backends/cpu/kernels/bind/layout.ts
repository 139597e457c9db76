import type { RequiredOps } from '../../../../core/backend.ts';
import { DTYPE_BYTES, type DType, f32ToBf16, f32ToF16 } from '../../../../core/dtype.ts';
import { ShapeError } from '../../../../core/errors.ts';
import type { Shape, Tensor } from '../../../../core/tensor.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { castKernels, decodeKernels, encodeKernels } from '../cast.ts';
import { gatherRows, scatterAddRows, scatterRows } from '../rowsCopy.ts';
import { COPY_AXES, fill, stridedCopy } from '../strided.ts';
import { entriesOf } from './entries.ts';

export const layoutKernels = [
  ...castKernels,
  ...([gatherRows, scatterRows, scatterAddRows, stridedCopy, fill] as readonly Kernel[]),
];

type LayoutOps = Pick<
  RequiredOps,
  'slice' | 'concat' | 'permute' | 'expand' | 'pad' | 'cast' | 'gatherRows' | 'scatterRows'
>;

/** Where a strided copy starts, in elements behind the address of a tensor, and how it walks. */
interface Walk {
  readonly start: number;
  readonly strides: readonly number[];
}

export function layoutOps(host: OpHost): LayoutOps {
  const copyEntry = host.entry(stridedCopy as Kernel);
  const fillEntry = host.entry(fill as Kernel);
  const gatherEntry = host.entry(gatherRows as Kernel);
  const scatterEntry = host.entry(scatterRows as Kernel);
  const addEntry = host.entry(scatterAddRows as Kernel);
  const decode = entriesOf(host, decodeKernels);
  const encode = entriesOf(host, encodeKernels);

  const copy = (out: Tensor, x: Tensor, shape: Shape, from: Walk, to: Walk): void => {
    const axes = merged(shape, from.strides, to.strides);
    const { at } = stridedCopy;
    const bytes = DTYPE_BYTES[x.dtype];
    const c = host.begin(copyEntry);
    const { words } = host;
    words[c + at.out] = host.address(out) + to.start * bytes;
    words[c + at.x] = host.address(x) + from.start * bytes;
    words[c + at.shift] = Math.log2(bytes);
    for (let i = 0; i < COPY_AXES; i++) {
      const axis = axes[i]!;
      words[c + at.d0 + i] = axis.size;
      words[c + at.s0 + i] = axis.from;
      words[c + at.t0 + i] = axis.to;
    }
  };

  const castTo = (entry: number, out: number, x: number, n: number): void => {
    const { at } = decodeKernels.f16;
    const c = host.begin(entry);
    host.words[c + at.out] = out;
    host.words[c + at.x] = x;
    host.words[c + at.n] = n;
  };

  return {
    slice(out, x, axis, start, step) {
      const strides = stridesOf(x.shape);
      const first = start * strides[axis]!;
      strides[axis]! *= step;
      copy(out, x, out.shape, { start: first, strides }, whole(out.shape));
    },
    concat(out, xs, axis) {
      const strides = stridesOf(out.shape);
      let start = 0;
      for (const x of xs) {
        if (x.size) copy(out, x, x.shape, whole(x.shape), { start, strides });
        start += x.shape[axis]! * strides[axis]!;
      }
    },
    permute(out, x, axes) {
      const strides = stridesOf(x.shape);
      copy(out, x, out.shape, { start: 0, strides: axes.map((a) => strides[a]!) }, whole(out.shape));
    },
    expand(out, x) {
      const strides = stridesOf(x.shape).map((s, i) => (x.shape[i] === out.shape[i] ? s : 0));
      copy(out, x, out.shape, { start: 0, strides }, whole(out.shape));
    },
    pad(out, x, before, value) {
      const { at } = fill;
      const c = host.begin(fillEntry);
      host.words[c + at.out] = host.address(out);
      host.words[c + at.bytes] = out.size * DTYPE_BYTES[out.dtype];
      if (out.dtype === 'f32') host.floats[c + at.pattern] = value;
      else host.words[c + at.pattern] = patternOf(out.dtype, value);
      if (x.size === 0) return;
      const strides = stridesOf(out.shape);
      const start = before.reduce((n, b, i) => n + b * strides[i]!, 0);
      copy(out, x, x.shape, whole(x.shape), { start, strides });
    },
    cast(out, x) {
      const [to, from] = [host.address(out), host.address(x)];
      if (out.dtype === x.dtype) copy(out, x, [x.size], whole([x.size]), whole([x.size]));
      else if (x.dtype === 'f32') castTo(encode[out.dtype as keyof typeof encode], to, from, x.size);
      else if (out.dtype === 'f32') castTo(decode[x.dtype], to, from, x.size);
      else {
        const floats = host.scratch(x.size * 4);
        castTo(decode[x.dtype], floats, from, x.size);
        castTo(encode[out.dtype], to, floats, x.size);
      }
    },
    gatherRows(out, table, ids) {
      if (!('storage' in table)) throw new ShapeError(`gatherRows: expected a tensor, got the weight "${table.name}"`);
      const rows = out.shape[0]!;
      const { at } = gatherRows;
      const c = host.begin(gatherEntry);
      const { words } = host;
      words[c + at.out] = host.address(out);
      words[c + at.table] = host.address(table);
      words[c + at.ids] = host.address(ids);
      words[c + at.rows] = rows;
      words[c + at.rowBytes] = (out.size / rows) * DTYPE_BYTES[out.dtype];
      words[c + at.tableRows] = table.shape[0]!;
    },
    scatterRows(out, x, ids, accumulate) {
      const rows = x.shape[0]!;
      const width = x.size / rows;
      const { words } = host;
      if (accumulate) {
        const { at } = scatterAddRows;
        const c = host.begin(addEntry);
        words[c + at.out] = host.address(out);
        words[c + at.x] = host.address(x);
        words[c + at.ids] = host.address(ids);
        words[c + at.rows] = rows;
        words[c + at.width] = width;
        words[c + at.outRows] = out.shape[0]!;
        return;
      }
      const { at } = scatterRows;
      const c = host.begin(scatterEntry);
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.ids] = host.address(ids);
      words[c + at.rows] = rows;
      words[c + at.rowBytes] = width * DTYPE_BYTES[x.dtype];
      words[c + at.outRows] = out.shape[0]!;
    },
  };
}

function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * shape[i + 1]!;
  return strides;
}

const whole = (shape: Shape): Walk => ({ start: 0, strides: stridesOf(shape) });

interface Axis {
  size: number;
  readonly from: number;
  readonly to: number;
}

/** Joins axes that both sides walk as one, drops those of size 1, and fills up to `COPY_AXES` in front. */
function merged(shape: Shape, from: readonly number[], to: readonly number[]): readonly Axis[] {
  const axes: Axis[] = [];
  for (let i = shape.length - 1; i >= 0; i--) {
    const size = shape[i]!;
    if (size === 1) continue;
    const inner = axes[0];
    if (inner && from[i] === inner.from * inner.size && to[i] === inner.to * inner.size) inner.size *= size;
    else axes.unshift({ size, from: from[i]!, to: to[i]! });
  }
  if (axes.length > COPY_AXES) {
    throw new ShapeError(`copy: expected up to ${COPY_AXES} axes that do not lie together, got [${shape}]`);
  }
  while (axes.length < COPY_AXES) axes.unshift({ size: 1, from: 1, to: 1 });
  return axes;
}

/** Four bytes that repeat one element. */
function patternOf(dtype: Exclude<DType, 'f32'>, value: number): number {
  if (dtype === 'i32') return value | 0;
  if (dtype === 'u8') return (value & 255) * 0x01010101;
  return (dtype === 'f16' ? f32ToF16(value) : f32ToBf16(value)) * 0x00010001;
}
