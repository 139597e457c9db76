import type { ByteWriter } from './writer.ts';

export type ValueType = 'i32' | 'i64' | 'f32' | 'f64' | 'v128';

/** How the binary format writes each value type. */
export const VALUE_TYPE_CODES: Readonly<Record<ValueType, number>> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

/**
 * A typed expression: a tree that is written to the function where it is used. Using one object twice computes it twice;
 * put it into a local to compute it once.
 */
export class Expr<T extends ValueType = ValueType> {
  readonly type: T;
  readonly emit: (out: ByteWriter) => void;

  constructor(type: T, emit: (out: ByteWriter) => void) {
    this.type = type;
    this.emit = emit;
  }
}

/** Where an `i32` is expected, a JavaScript number stands for the constant. */
export type I32 = Expr<'i32'> | number;
export type I64 = Expr<'i64'> | bigint;
export type F32 = Expr<'f32'> | number;
export type F64 = Expr<'f64'> | number;
export type V128 = Expr<'v128'>;

/** What may stand for an operand of type `T`. */
export type Operand<T extends ValueType> = T extends 'i32'
  ? I32
  : T extends 'i64'
    ? I64
    : T extends 'f32'
      ? F32
      : T extends 'f64'
        ? F64
        : V128;

const CONST = { i32: 0x41, i64: 0x42, f32: 0x43, f64: 0x44 } as const;

/** Writes an operand, turning plain numbers into constants of the expected type. */
export function emitOperand(out: ByteWriter, type: ValueType, operand: Operand<ValueType>): void {
  if (typeof operand === 'object') {
    operand.emit(out);
    return;
  }
  const value = Number(operand);
  if (type === 'v128') throw new TypeError('a v128 operand is an expression, not a number');
  out.byte(CONST[type]);
  if (type === 'f32') out.float32(value);
  else if (type === 'f64') out.float64(value);
  else out.signed(value);
}
