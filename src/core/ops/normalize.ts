import type { GluOptions, NormOptions, RopeOptions } from '../backend.ts';
import { composedAddNorm, composedGlu, composedNorm, composedSoftmax } from '../composed/normalize.ts';
import { composedRope } from '../composed/rope.ts';
import type { Tensor } from '../tensor.ts';
import { like, likeWithWidth, needF32, needVector, refuse } from './check.ts';

/** Normalises each row (or each of its `groups`); `group` norms channels of `[batch, channels, …spatial]`. */
export function norm(x: Tensor, options: NormOptions): Tensor {
  checkNorm('norm', x, options);
  const out = like(x);
  const { ops } = x.backend;
  if (out.size) {
    if (ops.norm) ops.norm(out, x, options);
    else composedNorm(out, x, options);
  }
  return out;
}

/** `residual += x`, then the norm of it: the seam between two blocks in one pass. */
export function addNorm(residual: Tensor, x: Tensor, options: NormOptions): Tensor {
  checkNorm('addNorm', residual, options);
  needF32('addNorm', 'x', x);
  if (options.kind === 'group') refuse('addNorm', 'rms, layer or l2', 'group');
  if (x.size !== residual.size || x.width !== residual.width) refuse('addNorm', 'x like the residual', residual, x);
  const out = like(residual);
  const { ops } = x.backend;
  if (out.size) {
    if (ops.addNorm) ops.addNorm(out, residual, x, options);
    else composedAddNorm(out, residual, x, options);
  }
  return out;
}

function checkNorm(op: string, x: Tensor, o: NormOptions): void {
  needF32(op, 'x', x);
  if (o.kind === 'group' && x.shape.length < 2) refuse(op, '[batch, channels, …]', x);
  const width = o.kind === 'group' ? (x.shape[1] as number) : x.width;
  const groups = o.groups ?? 1;
  if (!(groups >= 1) || width % groups !== 0) refuse(op, `a width that ${groups} groups divide`, x);
  needVector(op, 'weight', o.weight, width);
  needVector(op, 'bias', o.bias, width);
}

/** Softmax of `scale * x (+ mask)` over the last axis; `mask` has the size of `x` or of one row. */
export function softmax(x: Tensor, scale = 1, mask?: Tensor): Tensor {
  needF32('softmax', 'x', x);
  if (mask !== undefined) {
    needF32('softmax', 'mask', mask);
    if (mask.size !== x.size && !(mask.size === x.width && mask.width === x.width)) {
      refuse('softmax', 'a mask of the size of x or of one row', x, mask);
    }
  }
  const out = like(x);
  const { ops } = x.backend;
  if (out.size) {
    if (ops.softmax) ops.softmax(out, x, scale, mask);
    else composedSoftmax(out, x, scale, mask);
  }
  return out;
}

/** `activation(gate) * up` of `[…, 2 * width]`. */
export function glu(x: Tensor, options: GluOptions): Tensor {
  needF32('glu', 'x', x);
  if (x.shape.length === 0 || x.width % 2 !== 0) refuse('glu', 'an even last axis (gate and up)', x);
  const out = likeWithWidth(x, x.width / 2);
  const { ops } = x.backend;
  if (out.size) {
    if (ops.glu) ops.glu(out, x, options);
    else composedGlu(out, x, options);
  }
  return out;
}

/** Rotates `x` `[rows, heads * headDim]` in place and returns it; `cosSin` is `[rows, rotaryDim]`: cosines, then sines. */
export function rope(x: Tensor, cosSin: Tensor, options: RopeOptions): Tensor {
  needF32('rope', 'x', x);
  checkRope('rope', cosSin, x.shape[0] ?? 0, options);
  if (x.shape.length !== 2 || x.width % options.headDim !== 0) {
    refuse('rope', `[rows, heads * ${options.headDim}]`, x);
  }
  const { ops } = x.backend;
  if (x.size) {
    if (ops.rope) ops.rope(x, cosSin, options);
    else composedRope(x, cosSin, options);
  }
  return x;
}

export function checkRope(op: string, cosSin: Tensor, rows: number, o: RopeOptions): void {
  needF32(op, 'cosSin', cosSin);
  if (o.rotaryDim % 2 !== 0 || o.rotaryDim > o.headDim) {
    refuse(op, `an even rotaryDim up to ${o.headDim}`, `${o.rotaryDim}`);
  }
  if (cosSin.shape.length !== 2 || cosSin.width !== o.rotaryDim || (cosSin.shape[0] as number) < rows) {
    refuse(op, `cosSin [${rows}, ${o.rotaryDim}]`, cosSin);
  }
}
