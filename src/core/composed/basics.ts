import type { Backend } from '../backend.ts';
import { scaleInto } from '../ops/elementwise.ts';
import { cumsum } from '../ops/reduce.ts';
import type { Shape, Tensor } from '../tensor.ts';

/** The most negative f32: a mask value that stays finite where infinities are awkward. */
export const LOWEST = -3.4028234663852886e38;

/** A tensor of one value: the padding of an empty one. */
export function fill(backend: Backend, shape: Shape, value: number): Tensor {
  const out = backend.alloc(shape, 'f32');
  if (out.size) backend.ops.pad(out.reshape([out.size]), backend.alloc([0], 'f32'), [0], value);
  return out;
}

/** `0, 1, … n - 1`, in f32. */
export function iota(backend: Backend, n: number): Tensor {
  return scaleInto(cumsum(fill(backend, [n], 1), 0), 1, -1);
}

/** `out = x`, same size. */
export function copy(out: Tensor, x: Tensor): void {
  x.backend.ops.slice(out.reshape([out.size]), x.reshape([x.size]), 0, 0, 1);
}
