import { ShapeError } from '../errors.ts';
import type { Shape, Tensor } from '../tensor.ts';
import { describe } from '../tensor.ts';

/** `op: expected X, got f32[2,3] and i32[4]`. Only ever called on the failing path: it builds strings. */
export function refuse(op: string, expected: string, ...got: readonly (Tensor | string)[]): never {
  throw new ShapeError(
    `${op}: expected ${expected}, got ${got.map((g) => (typeof g === 'string' ? g : describe(g))).join(' and ')}`,
  );
}

export function needF32(op: string, name: string, t: Tensor): void {
  if (t.dtype !== 'f32') refuse(op, `f32 ${name}; cast it first`, t);
}

export function needI32(op: string, name: string, t: Tensor): void {
  if (t.dtype !== 'i32') refuse(op, `i32 ${name}`, t);
}

/** An optional vector of parameters. */
export function needVector(op: string, name: string, t: Tensor | undefined, size: number): void {
  if (t !== undefined && (t.dtype !== 'f32' || t.size !== size)) refuse(op, `${name} f32[${size}]`, t);
}

/** The axis as a non-negative number. */
export function axisOf(op: string, t: Tensor, axis: number): number {
  const a = axis < 0 ? t.shape.length + axis : axis;
  if (!Number.isInteger(a) || a < 0 || a >= t.shape.length) refuse(op, `an axis of rank ${t.shape.length}`, `${axis}`);
  return a;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** An uninitialised f32 tensor of the shape of `x`; the common two-axis case allocates nothing in JavaScript. */
export function like(x: Tensor): Tensor {
  const { shape, backend } = x;
  return shape.length === 2 ? backend.allocRows(shape[0] as number, shape[1] as number) : backend.alloc(shape, 'f32');
}

/** An uninitialised f32 tensor of the shape of `x` with another last axis. */
export function likeWithWidth(x: Tensor, width: number): Tensor {
  const { shape, backend } = x;
  if (shape.length === 2) return backend.allocRows(shape[0] as number, width);
  return backend.alloc([...shape.slice(0, -1), width], 'f32');
}
