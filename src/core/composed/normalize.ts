/** Norms, softmax and gated units from elementwise ops and reductions. */
import type { GluOptions, NormOptions } from '../backend.ts';
import { addInto, binaryInto, mul, mulInto, scale, scaleInto, sub, unary, unaryInto } from '../ops/elementwise.ts';
import { expand, slice } from '../ops/layout.ts';
import { reduce } from '../ops/reduce.ts';
import type { Tensor } from '../tensor.ts';
import { copy, LOWEST } from './basics.ts';

export function composedNorm(out: Tensor, x: Tensor, options: NormOptions): void {
  const { kind, eps, weight, bias, plusOne, groups = 1 } = options;
  x.backend.scope(() => {
    const parts = (kind === 'group' ? (x.shape[0] as number) : x.rowCount) * groups;
    const flat = x.reshape([parts, x.size / parts]);
    const centred = kind === 'layer' || kind === 'group' ? sub(flat, reduce('mean', flat, 1)) : flat;
    const power = reduce(kind === 'l2' ? 'sum' : 'mean', unary('square', centred), 1);
    const y = mul(centred, unaryInto('rsqrt', scaleInto(power, 1, eps)));
    const factor = weight && (plusOne ? scale(weight, 1, 1) : weight);
    if (kind === 'group') {
      const [batch, channels] = x.shape as [number, number];
      const planes = y.reshape([batch * channels, x.size / (batch * channels)]);
      const column = (t: Tensor) => expand(t.reshape([1, channels]), [batch, channels]).reshape([-1, 1]);
      if (factor) mulInto(planes, column(factor));
      if (bias) addInto(planes, column(bias));
    } else {
      const rows = y.reshape([x.rowCount, x.width]);
      if (factor) mulInto(rows, factor.reshape([x.width]));
      if (bias) addInto(rows, bias.reshape([x.width]));
    }
    copy(out, y);
  });
}

export function composedAddNorm(out: Tensor, residual: Tensor, x: Tensor, options: NormOptions): void {
  addInto(residual, x);
  const { ops } = x.backend;
  if (ops.norm) ops.norm(out, residual, options);
  else composedNorm(out, residual, options);
}

export function composedSoftmax(out: Tensor, x: Tensor, factor: number, mask: Tensor | undefined): void {
  x.backend.scope(() => {
    const rows = scale(x.reshape([x.rowCount, x.width]), factor);
    if (mask) addInto(rows, mask.size === x.size ? mask.reshape(rows.shape) : mask.reshape([x.width]));
    // Clamping keeps a fully masked row at zero: exp(-inf - LOWEST) = 0, and 0 / 1e-30 = 0.
    const peak = unaryInto('clamp', reduce('max', rows, 1), LOWEST, -LOWEST);
    const e = unaryInto('exp', binaryInto('sub', rows, peak));
    const total = unaryInto('clamp', reduce('sum', e, 1), 1e-30, -LOWEST);
    copy(out, binaryInto('div', e, total));
  });
}

export function composedGlu(out: Tensor, x: Tensor, options: GluOptions): void {
  const { activation, clamped, interleaved } = options;
  const half = x.width / 2;
  x.backend.scope(() => {
    const rows = x.reshape([x.rowCount, x.width]);
    const gate = interleaved ? slice(rows, 1, 0, x.width, 2) : slice(rows, 1, 0, half);
    const up = interleaved ? slice(rows, 1, 1, x.width, 2) : slice(rows, 1, half, x.width);
    if (clamped) {
      const { alpha, limit } = clamped;
      unaryInto('clamp', gate, LOWEST, limit);
      scaleInto(unaryInto('clamp', up, -limit, limit), 1, 1);
      mulInto(gate, unaryInto('sigmoid', scale(gate, alpha)));
    } else {
      unaryInto(activation, gate);
    }
    mulInto(gate, up);
    copy(out, gate);
  });
}
