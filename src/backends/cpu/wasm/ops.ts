/**
 * The instruction table: every WebAssembly instruction that kernels use, by its name in the specification written in
 * camel case (`i32x4.extadd_pairwise_i16x8_s` is `i32x4.extaddPairwiseI16x8S`). Each entry builds an expression from its
 * operands. Instructions without a result (stores, copies, barriers) are methods of `FunctionBuilder`.
 */
import {
  Expr,
  emitOperand,
  type F32,
  type F64,
  type I32,
  type I64,
  type Operand,
  type V128,
  type ValueType,
} from './expr.ts';
import type { ByteWriter } from './writer.ts';

/** Instruction prefixes: none, saturating conversions and bulk memory, SIMD, atomics. */
export const PREFIX = { none: 0, misc: 0xfc, simd: 0xfd, atomic: 0xfe } as const;
type Prefix = (typeof PREFIX)[keyof typeof PREFIX];

export function emitOpcode(out: ByteWriter, prefix: Prefix, code: number): void {
  if (prefix === PREFIX.none) {
    out.byte(code);
    return;
  }
  out.byte(prefix);
  out.unsigned(code);
}

function op1<A extends ValueType, R extends ValueType>(prefix: Prefix, code: number, a: A, result: R) {
  return (x: Operand<A>): Expr<R> =>
    new Expr(result, (out) => {
      emitOperand(out, a, x);
      emitOpcode(out, prefix, code);
    });
}

function op2<A extends ValueType, B extends ValueType, R extends ValueType>(
  prefix: Prefix,
  code: number,
  a: A,
  b: B,
  result: R,
) {
  return (x: Operand<A>, y: Operand<B>): Expr<R> =>
    new Expr(result, (out) => {
      emitOperand(out, a, x);
      emitOperand(out, b, y);
      emitOpcode(out, prefix, code);
    });
}

const i32Unary = (code: number) => op1(PREFIX.none, code, 'i32', 'i32');
const i32Binary = (code: number) => op2(PREFIX.none, code, 'i32', 'i32', 'i32');
const f32Unary = (code: number) => op1(PREFIX.none, code, 'f32', 'f32');
const f32Binary = (code: number) => op2(PREFIX.none, code, 'f32', 'f32', 'f32');
const f32Compare = (code: number) => op2(PREFIX.none, code, 'f32', 'f32', 'i32');
const f64Unary = (code: number) => op1(PREFIX.none, code, 'f64', 'f64');
const f64Binary = (code: number) => op2(PREFIX.none, code, 'f64', 'f64', 'f64');
const f64Compare = (code: number) => op2(PREFIX.none, code, 'f64', 'f64', 'i32');
const unary = (code: number) => op1(PREFIX.simd, code, 'v128', 'v128');
const binary = (code: number) => op2(PREFIX.simd, code, 'v128', 'v128', 'v128');
const shift = (code: number) => op2(PREFIX.simd, code, 'v128', 'i32', 'v128');
const toI32 = (code: number) => op1(PREFIX.simd, code, 'v128', 'i32');

function ternary(code: number) {
  return (a: V128, b: V128, c: V128): V128 =>
    new Expr('v128', (out) => {
      a.emit(out);
      b.emit(out);
      c.emit(out);
      emitOpcode(out, PREFIX.simd, code);
    });
}

/** Address, constant offset in bytes. Alignment is a hint in the format and of no use to the engines: 1 is always legal. */
export function emitMemory(out: ByteWriter, prefix: Prefix, code: number, offset: number, alignLog2 = 0): void {
  emitOpcode(out, prefix, code);
  out.unsigned(alignLog2);
  out.unsigned(offset);
}

function load<R extends ValueType>(prefix: Prefix, code: number, result: R, alignLog2 = 0) {
  return (address: I32, offset = 0): Expr<R> =>
    new Expr(result, (out) => {
      emitOperand(out, 'i32', address);
      emitMemory(out, prefix, code, offset, alignLog2);
    });
}
const vectorLoad = (code: number) => load(PREFIX.simd, code, 'v128');

/** Loads one lane from memory and keeps the others of `vector`. */
function loadLane(code: number) {
  return (address: I32, vector: V128, lane: number, offset = 0): V128 =>
    new Expr('v128', (out) => {
      emitOperand(out, 'i32', address);
      vector.emit(out);
      emitMemory(out, PREFIX.simd, code, offset);
      out.byte(lane);
    });
}

function extractLane<R extends ValueType>(code: number, result: R) {
  return (vector: V128, lane: number): Expr<R> =>
    new Expr(result, (out) => {
      vector.emit(out);
      emitOpcode(out, PREFIX.simd, code);
      out.byte(lane);
    });
}

function replaceLane<A extends ValueType>(code: number, type: A) {
  return (vector: V128, lane: number, value: Operand<A>): V128 =>
    new Expr('v128', (out) => {
      vector.emit(out);
      emitOperand(out, type, value);
      emitOpcode(out, PREFIX.simd, code);
      out.byte(lane);
    });
}

function splat<A extends ValueType>(code: number, type: A) {
  return op1(PREFIX.simd, code, type, 'v128');
}

function atomicRmw(code: number) {
  return (address: I32, value: I32, offset = 0): Expr<'i32'> =>
    new Expr('i32', (out) => {
      emitOperand(out, 'i32', address);
      emitOperand(out, 'i32', value);
      emitMemory(out, PREFIX.atomic, code, offset, 2);
    });
}

function select<T extends ValueType>(type: T) {
  return (condition: I32, whenTrue: Operand<T>, whenFalse: Operand<T>): Expr<T> =>
    new Expr(type, (out) => {
      emitOperand(out, type, whenTrue);
      emitOperand(out, type, whenFalse);
      emitOperand(out, 'i32', condition);
      if (type === 'v128') {
        out.bytes([0x1c, 1, 0x7b]);
      } else {
        out.byte(0x1b);
      }
    });
}

export const i32 = {
  const: (value: number): Expr<'i32'> => new Expr('i32', (out) => emitOperand(out, 'i32', value)),
  select: select('i32'),
  eqz: i32Unary(0x45),
  eq: i32Binary(0x46),
  ne: i32Binary(0x47),
  ltS: i32Binary(0x48),
  ltU: i32Binary(0x49),
  gtS: i32Binary(0x4a),
  gtU: i32Binary(0x4b),
  leS: i32Binary(0x4c),
  leU: i32Binary(0x4d),
  geS: i32Binary(0x4e),
  geU: i32Binary(0x4f),
  clz: i32Unary(0x67),
  ctz: i32Unary(0x68),
  popcnt: i32Unary(0x69),
  add: i32Binary(0x6a),
  sub: i32Binary(0x6b),
  mul: i32Binary(0x6c),
  divS: i32Binary(0x6d),
  divU: i32Binary(0x6e),
  remS: i32Binary(0x6f),
  remU: i32Binary(0x70),
  and: i32Binary(0x71),
  or: i32Binary(0x72),
  xor: i32Binary(0x73),
  shl: i32Binary(0x74),
  shrS: i32Binary(0x75),
  shrU: i32Binary(0x76),
  reinterpretF32: op1(PREFIX.none, 0xbc, 'f32', 'i32'),
  extend8S: i32Unary(0xc0),
  extend16S: i32Unary(0xc1),
  truncSatF32S: op1(PREFIX.misc, 0, 'f32', 'i32'),
  truncSatF32U: op1(PREFIX.misc, 1, 'f32', 'i32'),
  truncSatF64S: op1(PREFIX.misc, 2, 'f64', 'i32'),
  truncSatF64U: op1(PREFIX.misc, 3, 'f64', 'i32'),
  load: load(PREFIX.none, 0x28, 'i32'),
  load8S: load(PREFIX.none, 0x2c, 'i32'),
  load8U: load(PREFIX.none, 0x2d, 'i32'),
  load16S: load(PREFIX.none, 0x2e, 'i32'),
  load16U: load(PREFIX.none, 0x2f, 'i32'),
  /** Sequentially consistent; the address must be a multiple of 4. */
  atomicLoad: load(PREFIX.atomic, 0x10, 'i32', 2),
  /** Each returns the old value. */
  atomicAdd: atomicRmw(0x1e),
  atomicSub: atomicRmw(0x25),
  atomicAnd: atomicRmw(0x2c),
  atomicOr: atomicRmw(0x33),
  atomicXor: atomicRmw(0x3a),
  atomicXchg: atomicRmw(0x41),
  atomicCmpxchg: (address: I32, expected: I32, replacement: I32, offset = 0): Expr<'i32'> =>
    new Expr('i32', (out) => {
      emitOperand(out, 'i32', address);
      emitOperand(out, 'i32', expected);
      emitOperand(out, 'i32', replacement);
      emitMemory(out, PREFIX.atomic, 0x48, offset, 2);
    }),
};

export const f32 = {
  const: (value: number): Expr<'f32'> => new Expr('f32', (out) => emitOperand(out, 'f32', value)),
  select: select('f32'),
  eq: f32Compare(0x5b),
  ne: f32Compare(0x5c),
  lt: f32Compare(0x5d),
  gt: f32Compare(0x5e),
  le: f32Compare(0x5f),
  ge: f32Compare(0x60),
  abs: f32Unary(0x8b),
  neg: f32Unary(0x8c),
  ceil: f32Unary(0x8d),
  floor: f32Unary(0x8e),
  trunc: f32Unary(0x8f),
  nearest: f32Unary(0x90),
  sqrt: f32Unary(0x91),
  add: f32Binary(0x92),
  sub: f32Binary(0x93),
  mul: f32Binary(0x94),
  div: f32Binary(0x95),
  min: f32Binary(0x96),
  max: f32Binary(0x97),
  copysign: f32Binary(0x98),
  convertI32S: op1(PREFIX.none, 0xb2, 'i32', 'f32'),
  convertI32U: op1(PREFIX.none, 0xb3, 'i32', 'f32'),
  demoteF64: op1(PREFIX.none, 0xb6, 'f64', 'f32'),
  reinterpretI32: op1(PREFIX.none, 0xbe, 'i32', 'f32'),
  load: load(PREFIX.none, 0x2a, 'f32'),
};

export const f64 = {
  const: (value: number): Expr<'f64'> => new Expr('f64', (out) => emitOperand(out, 'f64', value)),
  select: select('f64'),
  lt: f64Compare(0x63),
  gt: f64Compare(0x64),
  neg: f64Unary(0x9a),
  floor: f64Unary(0x9c),
  nearest: f64Unary(0x9e),
  sqrt: f64Unary(0x9f),
  add: f64Binary(0xa0),
  sub: f64Binary(0xa1),
  mul: f64Binary(0xa2),
  div: f64Binary(0xa3),
  min: f64Binary(0xa4),
  max: f64Binary(0xa5),
  convertI32S: op1(PREFIX.none, 0xb7, 'i32', 'f64'),
  convertI32U: op1(PREFIX.none, 0xb8, 'i32', 'f64'),
  promoteF32: op1(PREFIX.none, 0xbb, 'f32', 'f64'),
  load: load(PREFIX.none, 0x2b, 'f64'),
};

export const v128 = {
  /** 16 bytes, lowest lane first. Inside loops prefer `FunctionBuilder.pooled`: V8 rebuilds constants at every use. */
  const: (bytes: ArrayLike<number>): V128 =>
    new Expr('v128', (out) => {
      if (bytes.length !== 16) throw new RangeError(`v128.const: expected 16 bytes, got ${bytes.length}`);
      emitOpcode(out, PREFIX.simd, 0x0c);
      out.bytes(bytes);
    }),
  zero: (): V128 =>
    new Expr('v128', (out) => {
      emitOpcode(out, PREFIX.simd, 0x0c);
      for (let i = 0; i < 16; i++) out.byte(0);
    }),
  select: select('v128'),
  load: vectorLoad(0x00),
  load8x8S: vectorLoad(0x01),
  load8x8U: vectorLoad(0x02),
  load16x4S: vectorLoad(0x03),
  load16x4U: vectorLoad(0x04),
  load32x2S: vectorLoad(0x05),
  load32x2U: vectorLoad(0x06),
  load8Splat: vectorLoad(0x07),
  load16Splat: vectorLoad(0x08),
  load32Splat: vectorLoad(0x09),
  load64Splat: vectorLoad(0x0a),
  load32Zero: vectorLoad(0x5c),
  load64Zero: vectorLoad(0x5d),
  load8Lane: loadLane(0x54),
  load16Lane: loadLane(0x55),
  load32Lane: loadLane(0x56),
  load64Lane: loadLane(0x57),
  not: unary(0x4d),
  and: binary(0x4e),
  /** `a & ~b` */
  andnot: binary(0x4f),
  or: binary(0x50),
  xor: binary(0x51),
  /** Bits of `whenSet` where `mask` is 1, of `whenClear` elsewhere. */
  bitselect: (whenSet: V128, whenClear: V128, mask: V128): V128 => ternary(0x52)(whenSet, whenClear, mask),
  anyTrue: toI32(0x53),
};

const integerCompare = (first: number) => ({
  eq: binary(first),
  ne: binary(first + 1),
  ltS: binary(first + 2),
  ltU: binary(first + 3),
  gtS: binary(first + 4),
  gtU: binary(first + 5),
  leS: binary(first + 6),
  leU: binary(first + 7),
  geS: binary(first + 8),
  geU: binary(first + 9),
});

export const i8x16 = {
  ...integerCompare(0x23),
  splat: splat(0x0f, 'i32'),
  extractLaneS: extractLane(0x15, 'i32'),
  extractLaneU: extractLane(0x16, 'i32'),
  replaceLane: replaceLane(0x17, 'i32'),
  /** Lane indices 0–15 take from `a`, 16–31 from `b`. */
  shuffle: (a: V128, b: V128, lanes: readonly number[]): V128 =>
    new Expr('v128', (out) => {
      if (lanes.length !== 16) throw new RangeError(`i8x16.shuffle: expected 16 lanes, got ${lanes.length}`);
      a.emit(out);
      b.emit(out);
      emitOpcode(out, PREFIX.simd, 0x0d);
      out.bytes(lanes);
    }),
  swizzle: binary(0x0e),
  abs: unary(0x60),
  neg: unary(0x61),
  popcnt: unary(0x62),
  allTrue: toI32(0x63),
  bitmask: toI32(0x64),
  narrowI16x8S: binary(0x65),
  narrowI16x8U: binary(0x66),
  shl: shift(0x6b),
  shrS: shift(0x6c),
  shrU: shift(0x6d),
  add: binary(0x6e),
  addSatS: binary(0x6f),
  addSatU: binary(0x70),
  sub: binary(0x71),
  subSatS: binary(0x72),
  subSatU: binary(0x73),
  minS: binary(0x76),
  minU: binary(0x77),
  maxS: binary(0x78),
  maxU: binary(0x79),
  relaxedSwizzle: binary(0x100),
};

export const i16x8 = {
  ...integerCompare(0x2d),
  splat: splat(0x10, 'i32'),
  extractLaneS: extractLane(0x18, 'i32'),
  extractLaneU: extractLane(0x19, 'i32'),
  replaceLane: replaceLane(0x1a, 'i32'),
  extaddPairwiseI8x16S: unary(0x7c),
  extaddPairwiseI8x16U: unary(0x7d),
  abs: unary(0x80),
  neg: unary(0x81),
  q15mulrSatS: binary(0x82),
  allTrue: toI32(0x83),
  bitmask: toI32(0x84),
  narrowI32x4S: binary(0x85),
  narrowI32x4U: binary(0x86),
  extendLowI8x16S: unary(0x87),
  extendHighI8x16S: unary(0x88),
  extendLowI8x16U: unary(0x89),
  extendHighI8x16U: unary(0x8a),
  shl: shift(0x8b),
  shrS: shift(0x8c),
  shrU: shift(0x8d),
  add: binary(0x8e),
  addSatS: binary(0x8f),
  sub: binary(0x91),
  subSatS: binary(0x92),
  mul: binary(0x95),
  minS: binary(0x96),
  minU: binary(0x97),
  maxS: binary(0x98),
  maxU: binary(0x99),
  extmulLowI8x16S: binary(0x9c),
  extmulHighI8x16S: binary(0x9d),
  extmulLowI8x16U: binary(0x9e),
  extmulHighI8x16U: binary(0x9f),
  /** Pairwise sums of products; `b` must lie in 0–127, or the result depends on the engine. */
  relaxedDotI8x16I7x16S: binary(0x112),
};

export const i32x4 = {
  ...integerCompare(0x37),
  splat: splat(0x11, 'i32'),
  extractLane: extractLane(0x1b, 'i32'),
  replaceLane: replaceLane(0x1c, 'i32'),
  extaddPairwiseI16x8S: unary(0x7e),
  extaddPairwiseI16x8U: unary(0x7f),
  abs: unary(0xa0),
  neg: unary(0xa1),
  allTrue: toI32(0xa3),
  bitmask: toI32(0xa4),
  extendLowI16x8S: unary(0xa7),
  extendHighI16x8S: unary(0xa8),
  extendLowI16x8U: unary(0xa9),
  extendHighI16x8U: unary(0xaa),
  shl: shift(0xab),
  shrS: shift(0xac),
  shrU: shift(0xad),
  add: binary(0xae),
  sub: binary(0xb1),
  mul: binary(0xb5),
  minS: binary(0xb6),
  minU: binary(0xb7),
  maxS: binary(0xb8),
  maxU: binary(0xb9),
  dotI16x8S: binary(0xba),
  extmulLowI16x8S: binary(0xbc),
  extmulHighI16x8S: binary(0xbd),
  truncSatF32x4S: unary(0xf8),
  truncSatF32x4U: unary(0xf9),
  relaxedTruncF32x4S: unary(0x101),
  relaxedLaneselect: ternary(0x10b),
  /** `c` plus the sums of four products per lane; `b` must lie in 0–127, or the result depends on the engine. */
  relaxedDotI8x16I7x16AddS: ternary(0x113),
};

export const i64x2 = {
  splat: splat(0x12, 'i64'),
  extractLane: extractLane(0x1d, 'i64'),
  shl: shift(0xcb),
  shrS: shift(0xcc),
  shrU: shift(0xcd),
  add: binary(0xce),
  sub: binary(0xd1),
};

export const f32x4 = {
  splat: splat(0x13, 'f32'),
  extractLane: extractLane(0x1f, 'f32'),
  replaceLane: replaceLane(0x20, 'f32'),
  eq: binary(0x41),
  ne: binary(0x42),
  lt: binary(0x43),
  gt: binary(0x44),
  le: binary(0x45),
  ge: binary(0x46),
  demoteF64x2Zero: unary(0x5e),
  ceil: unary(0x67),
  floor: unary(0x68),
  trunc: unary(0x69),
  nearest: unary(0x6a),
  abs: unary(0xe0),
  neg: unary(0xe1),
  sqrt: unary(0xe3),
  add: binary(0xe4),
  sub: binary(0xe5),
  mul: binary(0xe6),
  div: binary(0xe7),
  min: binary(0xe8),
  max: binary(0xe9),
  pmin: binary(0xea),
  pmax: binary(0xeb),
  convertI32x4S: unary(0xfa),
  convertI32x4U: unary(0xfb),
  /** `a * b + c`, rounded once or twice as the engine likes. */
  relaxedMadd: ternary(0x105),
  /** `c - a * b`, rounded once or twice as the engine likes. */
  relaxedNmadd: ternary(0x106),
  relaxedMin: binary(0x10d),
  relaxedMax: binary(0x10e),
};

export const f64x2 = {
  splat: splat(0x14, 'f64'),
  extractLane: extractLane(0x21, 'f64'),
  promoteLowF32x4: unary(0x5f),
  nearest: unary(0x94),
  sqrt: unary(0xef),
  add: binary(0xf0),
  sub: binary(0xf1),
  mul: binary(0xf2),
  div: binary(0xf3),
  convertLowI32x4S: unary(0xfe),
};

/** Keeps the operand aliases visible to callers that import only the table. */
export type { F32, F64, I32, I64, V128 };
