import type { BinaryKind, UnaryKind } from '../backend.ts';
import type { DType } from '../dtype.ts';
import type { Tensor } from '../tensor.ts';
import { like, needF32, refuse } from './check.ts';

/** `kind(x)`, element by element. `a`, `b` are the parameters of `affine`, `clamp` and `softcap`. */
export function unary(kind: UnaryKind, x: Tensor, a = 0, b = 0): Tensor {
  needF32('unary', 'x', x);
  const out = like(x);
  if (out.size) x.backend.ops.unary(kind, out, x, a, b);
  return out;
}

/** `x = kind(x)`; returns `x`. */
export function unaryInto(kind: UnaryKind, x: Tensor, a = 0, b = 0): Tensor {
  needF32('unary', 'x', x);
  if (x.size) x.backend.ops.unary(kind, x, x, a, b);
  return x;
}

/** `kind(x, y)`; `y` has the size of `x`, or is one row `[width]`, one column `[rows, 1]`, or one element. */
export function binary(kind: BinaryKind, x: Tensor, y: Tensor): Tensor {
  checkBinary(x, y);
  const out = like(x);
  if (out.size) x.backend.ops.binary(kind, out, x, y);
  return out;
}

/** `x = kind(x, y)`; returns `x`. */
export function binaryInto(kind: BinaryKind, x: Tensor, y: Tensor): Tensor {
  checkBinary(x, y);
  if (x.size) x.backend.ops.binary(kind, x, x, y);
  return x;
}

/** How `y` meets `x` in `binary`: element by element, or repeated. The rule for every back-end. */
export function broadcastOf(x: Tensor, y: Tensor): 'same' | 'one' | 'column' | 'row' {
  if (y.size === x.size) return 'same';
  if (y.size === 1) return 'one';
  return y.width === 1 ? 'column' : 'row';
}

function checkBinary(x: Tensor, y: Tensor): void {
  needF32('binary', 'x', x);
  needF32('binary', 'y', y);
  if (y.size === x.size || y.size === 1 || (y.size === x.width && y.width === x.width)) return;
  if (y.width === 1 && y.size === x.rowCount) return;
  refuse('binary', 'y of the size of x, one row, one column or one element', x, y);
}

export function add(x: Tensor, y: Tensor): Tensor {
  return binary('add', x, y);
}

export function sub(x: Tensor, y: Tensor): Tensor {
  return binary('sub', x, y);
}

export function mul(x: Tensor, y: Tensor): Tensor {
  return binary('mul', x, y);
}

export function div(x: Tensor, y: Tensor): Tensor {
  return binary('div', x, y);
}

/** `x += y`; returns `x`. */
export function addInto(x: Tensor, y: Tensor): Tensor {
  return binaryInto('add', x, y);
}

/** `x *= y`; returns `x`. */
export function mulInto(x: Tensor, y: Tensor): Tensor {
  return binaryInto('mul', x, y);
}

/** `x * factor (+ bias)`. */
export function scale(x: Tensor, factor: number, bias = 0): Tensor {
  return unary('affine', x, factor, bias);
}

/** `x = x * factor (+ bias)`; returns `x`. */
export function scaleInto(x: Tensor, factor: number, bias = 0): Tensor {
  return unaryInto('affine', x, factor, bias);
}

/** `condition ? x : y`, all of one size; `condition` is f32 and non-zero means true. */
export function select(condition: Tensor, x: Tensor, y: Tensor): Tensor {
  needF32('select', 'condition', condition);
  needF32('select', 'x', x);
  needF32('select', 'y', y);
  if (condition.size !== x.size || y.size !== x.size) refuse('select', 'three tensors of one size', condition, x, y);
  const out = like(x);
  if (out.size) x.backend.ops.select(out, condition, x, y);
  return out;
}

/** The values in another element type. Floats become integers by truncation, with saturation; NaN becomes 0. */
export function cast(x: Tensor, dtype: DType): Tensor {
  const out = x.backend.alloc(x.shape, dtype);
  if (out.size) x.backend.ops.cast(out, x);
  return out;
}
