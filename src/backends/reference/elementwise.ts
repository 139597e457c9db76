import type { BinaryKind, UnaryKind } from '../../core/backend.ts';
import { broadcastOf } from '../../core/ops/elementwise.ts';
import type { Tensor } from '../../core/tensor.ts';
import { BINARY, UNARY } from './functions.ts';
import { DECODE, dataOf, ENCODE, floats } from './memory.ts';

export function unary(kind: UnaryKind, out: Tensor, x: Tensor, a: number, b: number): void {
  const f = UNARY[kind];
  const from = floats(x);
  const to = floats(out);
  for (let i = 0; i < to.length; i++) to[i] = f(from[i]!, a, b);
}

export function binary(kind: BinaryKind, out: Tensor, x: Tensor, y: Tensor): void {
  const f = BINARY[kind];
  const left = floats(x);
  const right = floats(y);
  const to = floats(out);
  const { width } = x;
  const how = broadcastOf(x, y);
  for (let i = 0; i < to.length; i++) {
    const j = how === 'same' ? i : how === 'one' ? 0 : how === 'column' ? Math.floor(i / width) : i % width;
    to[i] = f(left[i]!, right[j]!);
  }
}

export function select(out: Tensor, condition: Tensor, x: Tensor, y: Tensor): void {
  const test = floats(condition);
  const yes = floats(x);
  const no = floats(y);
  const to = floats(out);
  for (let i = 0; i < to.length; i++) to[i] = test[i] !== 0 ? yes[i]! : no[i]!;
}

export function cast(out: Tensor, x: Tensor): void {
  const decode = DECODE[x.dtype];
  const encode = ENCODE[out.dtype];
  const from = dataOf(x);
  const to = dataOf(out);
  for (let i = 0; i < to.length; i++) to[i] = encode(decode(from[i]!));
}
