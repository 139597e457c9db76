import type { ConstantPool } from './constants.ts';
import {
  Expr,
  emitOperand,
  type F32,
  type I32,
  type I64,
  type Operand,
  type V128,
  VALUE_TYPE_CODES,
  type ValueType,
} from './expr.ts';
import { emitMemory, emitOpcode, i32, PREFIX, v128 } from './ops.ts';
import { ByteWriter } from './writer.ts';

const OP = {
  unreachable: 0x00,
  block: 0x02,
  loop: 0x03,
  if: 0x04,
  else: 0x05,
  end: 0x0b,
  br: 0x0c,
  brIf: 0x0d,
  return: 0x0f,
  call: 0x10,
  callIndirect: 0x11,
  drop: 0x1a,
  localGet: 0x20,
  localSet: 0x21,
  localTee: 0x22,
  i32Eqz: 0x45,
  i32Add: 0x6a,
  i32Store: 0x36,
  f32Store: 0x38,
  f64Store: 0x39,
  i32Store8: 0x3a,
  i32Store16: 0x3b,
} as const;
const MISC = { memoryCopy: 10, memoryFill: 11 } as const;
const SIMD_STORE = { v128: 0x0b, lane8: 0x58, lane16: 0x59, lane32: 0x5a, lane64: 0x5b } as const;
const ATOMIC = { notify: 0x00, wait32: 0x01, fence: 0x03, store: 0x17 } as const;
const NO_RESULT = 0x40;

/** A local variable: an expression that can be assigned to. */
export class Local<T extends ValueType = ValueType> extends Expr<T> {
  readonly name: string;
  readonly #index: number;
  readonly #out: ByteWriter;

  constructor(type: T, name: string, index: number, out: ByteWriter) {
    super(type, (target) => {
      target.byte(OP.localGet);
      target.unsigned(index);
    });
    this.name = name;
    this.#index = index;
    this.#out = out;
  }

  /** `this = value` */
  set(value: Operand<T>): void {
    emitOperand(this.#out, this.type, value);
    this.#out.byte(OP.localSet);
    this.#out.unsigned(this.#index);
  }

  /** An expression that assigns and yields the value. */
  tee(value: Operand<T>): Expr<T> {
    return new Expr(this.type, (out) => {
      emitOperand(out, this.type, value);
      out.byte(OP.localTee);
      out.unsigned(this.#index);
    });
  }

  /** `this += by`, for `i32` locals. */
  inc(by: Operand<T> & I32): void {
    this.emit(this.#out);
    emitOperand(this.#out, 'i32', by);
    this.#out.byte(OP.i32Add);
    this.#out.byte(OP.localSet);
    this.#out.unsigned(this.#index);
  }
}

/** A jump target: the end of a `block`, or the start of a `loop`. */
export interface Label {
  readonly depth: number;
}

/** A function that can be called: imported, or defined in the module. */
export interface FunctionRef {
  readonly name: string;
  readonly index: number;
  readonly typeIndex: number;
  readonly params: readonly ValueType[];
  readonly result: ValueType | undefined;
}

/**
 * The body of one function. Methods append instructions in the order they are called; expressions are written where they
 * are used. Loops and branches take callbacks that append their bodies.
 */
export class FunctionBuilder {
  readonly name: string;
  readonly result: ValueType | undefined;
  readonly #pool: ConstantPool | undefined;
  readonly #paramCount: number;
  readonly #locals: Local[] = [];
  readonly #pooled = new Map<number, Local<'v128'>>();
  readonly #prologue = new ByteWriter(64);
  readonly #out = new ByteWriter();
  #depth = 0;

  constructor(name: string, result: ValueType | undefined, paramCount: number, pool: ConstantPool | undefined) {
    this.name = name;
    this.result = result;
    this.#paramCount = paramCount;
    this.#pool = pool;
  }

  local<T extends ValueType>(type: T, name: string): Local<T> {
    const local = new Local(type, name, this.#locals.length, this.#out);
    this.#locals.push(local as unknown as Local);
    return local;
  }

  /** A new local, set to `value` when given (locals start as zero). */
  i32(name: string, value?: I32): Local<'i32'> {
    return this.#init(this.local('i32', name), value);
  }
  f32(name: string, value?: F32): Local<'f32'> {
    return this.#init(this.local('f32', name), value);
  }
  v128(name: string, value?: V128): Local<'v128'> {
    return this.#init(this.local('v128', name), value);
  }
  /** `count` locals `name0`, `name1`, … */
  v128s(name: string, count: number): Local<'v128'>[] {
    return Array.from({ length: count }, (_, i) => this.local('v128', `${name}${i}`));
  }

  /**
   * Vector constants in locals, loaded from the constant pool when the function starts, so that the engine keeps them in
   * registers (V8 from version 13 on rebuilds `v128.const` at every use, inside loops too).
   */
  readonly pooled = this.#splats((name, address) => this.#fromPool(name, address));

  /** The same, loaded from the pool at every use: for constants that are not worth a register. */
  readonly inMemory = this.#splats((_, address) => v128.load(0, address));

  #splats<T extends V128>(get: (name: string, address: number) => T) {
    return {
      i8x16: (value: number): T => get(`i8x16(${value})`, this.#constants.i8x16(value)),
      i16x8: (value: number): T => get(`i16x8(${value})`, this.#constants.i16x8(value)),
      i32x4: (value: number): T => get(`i32x4(${value})`, this.#constants.i32x4(value)),
      f32x4: (value: number): T => get(`f32x4(${value})`, this.#constants.f32x4(value)),
      bytes: (values: readonly number[]): T => get('bytes', this.#constants.bytes(values)),
    };
  }

  get #constants(): ConstantPool {
    if (!this.#pool) throw new Error(`${this.name}: the module was built without a constant pool`);
    return this.#pool;
  }

  #fromPool(name: string, address: number): Local<'v128'> {
    const known = this.#pooled.get(address);
    if (known) return known;
    const local = this.local('v128', name);
    emitOperand(this.#prologue, 'v128', local.tee(v128.load(0, address)));
    this.#prologue.byte(OP.drop);
    this.#pooled.set(address, local);
    return local;
  }

  #init<T extends ValueType>(local: Local<T>, value: Operand<T> | undefined): Local<T> {
    if (value !== undefined) local.set(value);
    return local;
  }

  // Control flow

  /** `body` may jump behind the block with `branch(exit)`. */
  block(body: (exit: Label) => void): void {
    this.#nest(OP.block, () => body({ depth: this.#depth }));
  }

  /** `body` runs once and again whenever it jumps to `again`. */
  loop(body: (again: Label) => void): void {
    this.#nest(OP.loop, () => body({ depth: this.#depth }));
  }

  while(condition: I32, body: () => void): void {
    this.if(condition, () => this.doWhile(body, condition));
  }

  doWhile(body: () => void, condition: I32): void {
    this.loop((again) => {
      body();
      this.branchIf(again, condition);
    });
  }

  /** Counts `index` from `from` while it is below `to` (unsigned), which must not change inside. */
  for(index: Local<'i32'>, from: I32, to: I32, step: I32, body: () => void): void {
    index.set(from);
    this.while(i32.ltU(index, to), () => {
      body();
      index.inc(step);
    });
  }

  if(condition: I32, then: () => void, otherwise?: () => void): void {
    emitOperand(this.#out, 'i32', condition);
    this.#out.byte(OP.if);
    this.#out.byte(NO_RESULT);
    this.#depth++;
    then();
    if (otherwise) {
      this.#out.byte(OP.else);
      otherwise();
    }
    this.#depth--;
    this.#out.byte(OP.end);
  }

  branch(target: Label): void {
    this.#out.byte(OP.br);
    this.#out.unsigned(this.#depth - target.depth);
  }

  branchIf(target: Label, condition: I32): void {
    emitOperand(this.#out, 'i32', condition);
    this.#out.byte(OP.brIf);
    this.#out.unsigned(this.#depth - target.depth);
  }

  return(value?: Operand<ValueType>): void {
    if (value !== undefined && this.result) emitOperand(this.#out, this.result, value);
    this.#out.byte(OP.return);
  }

  unreachable(): void {
    this.#out.byte(OP.unreachable);
  }

  // Calls

  /** Calls a function and drops its result, if it has one. */
  call(callee: FunctionRef, ...args: readonly Operand<ValueType>[]): void {
    this.#emitCall(this.#out, callee, args);
    if (callee.result) this.#out.byte(OP.drop);
  }

  /** The result of a call. */
  callFor<T extends ValueType>(type: T, callee: FunctionRef, ...args: readonly Operand<ValueType>[]): Expr<T> {
    if (callee.result !== type)
      throw new TypeError(`${callee.name}: returns ${callee.result ?? 'nothing'}, not ${type}`);
    return new Expr(type, (out) => this.#emitCall(out, callee, args));
  }

  /** Calls entry `element` of the module's table, a function of the type of `like`, which has no result. */
  callIndirect(like: FunctionRef, element: I32, ...args: readonly Operand<ValueType>[]): void {
    this.#emitArguments(this.#out, like, args);
    emitOperand(this.#out, 'i32', element);
    this.#out.byte(OP.callIndirect);
    this.#out.unsigned(like.typeIndex);
    this.#out.unsigned(0);
  }

  // Memory

  i32Store(address: I32, value: I32, offset = 0): void {
    this.#store('i32', PREFIX.none, OP.i32Store, address, value, offset);
  }
  i32Store8(address: I32, value: I32, offset = 0): void {
    this.#store('i32', PREFIX.none, OP.i32Store8, address, value, offset);
  }
  i32Store16(address: I32, value: I32, offset = 0): void {
    this.#store('i32', PREFIX.none, OP.i32Store16, address, value, offset);
  }
  f32Store(address: I32, value: F32, offset = 0): void {
    this.#store('f32', PREFIX.none, OP.f32Store, address, value, offset);
  }
  f64Store(address: I32, value: Operand<'f64'>, offset = 0): void {
    this.#store('f64', PREFIX.none, OP.f64Store, address, value, offset);
  }
  v128Store(address: I32, value: V128, offset = 0): void {
    this.#store('v128', PREFIX.simd, SIMD_STORE.v128, address, value, offset);
  }
  /** Stores one lane of 8, 16, 32 or 64 bits. */
  v128StoreLane(bits: 8 | 16 | 32 | 64, address: I32, value: V128, lane: number, offset = 0): void {
    this.#store('v128', PREFIX.simd, SIMD_STORE[`lane${bits}`], address, value, offset);
    this.#out.byte(lane);
  }
  memoryCopy(target: I32, source: I32, bytes: I32): void {
    this.#bulk(MISC.memoryCopy, [target, source, bytes], 2);
  }
  memoryFill(target: I32, value: I32, bytes: I32): void {
    this.#bulk(MISC.memoryFill, [target, value, bytes], 1);
  }

  // Atomics (addresses are multiples of 4)

  atomicStore(address: I32, value: I32, offset = 0): void {
    this.#store('i32', PREFIX.atomic, ATOMIC.store, address, value, offset, 2);
  }
  /** Sleeps while the word at `address` equals `expected`, at most `nanoseconds` (−1: without limit). Traps on unshared memory. */
  atomicWait32(address: I32, expected: I32, nanoseconds: I64 = -1n): void {
    emitOperand(this.#out, 'i32', address);
    emitOperand(this.#out, 'i32', expected);
    emitOperand(this.#out, 'i64', nanoseconds);
    emitMemory(this.#out, PREFIX.atomic, ATOMIC.wait32, 0, 2);
    this.#out.byte(OP.drop);
  }
  atomicNotify(address: I32, waiters: I32): void {
    emitOperand(this.#out, 'i32', address);
    emitOperand(this.#out, 'i32', waiters);
    emitMemory(this.#out, PREFIX.atomic, ATOMIC.notify, 0, 2);
    this.#out.byte(OP.drop);
  }
  atomicFence(): void {
    emitOpcode(this.#out, PREFIX.atomic, ATOMIC.fence);
    this.#out.byte(0);
  }

  /** Evaluates for the side effect (an atomic operation whose old value is of no interest). */
  drop(value: Expr): void {
    value.emit(this.#out);
    this.#out.byte(OP.drop);
  }

  /** The function in binary form: local declarations, instructions, `end`. */
  finish(): ByteWriter {
    const body = new ByteWriter(this.#out.length + 64);
    const declared = this.#locals.slice(this.#paramCount);
    body.unsigned(declared.length);
    for (const local of declared) {
      body.unsigned(1);
      body.byte(VALUE_TYPE_CODES[local.type]);
    }
    body.bytes(this.#prologue.view());
    body.bytes(this.#out.view());
    body.byte(OP.end);
    return body;
  }

  #nest(opcode: number, body: () => void): void {
    this.#out.byte(opcode);
    this.#out.byte(NO_RESULT);
    this.#depth++;
    body();
    this.#depth--;
    this.#out.byte(OP.end);
  }

  #emitArguments(out: ByteWriter, callee: FunctionRef, args: readonly Operand<ValueType>[]): void {
    if (args.length !== callee.params.length) {
      throw new TypeError(`${callee.name}: expected ${callee.params.length} arguments, got ${args.length}`);
    }
    for (let i = 0; i < args.length; i++) emitOperand(out, callee.params[i]!, args[i]!);
  }

  #emitCall(out: ByteWriter, callee: FunctionRef, args: readonly Operand<ValueType>[]): void {
    this.#emitArguments(out, callee, args);
    out.byte(OP.call);
    out.unsigned(callee.index);
  }

  #store(
    type: ValueType,
    prefix: (typeof PREFIX)[keyof typeof PREFIX],
    code: number,
    address: I32,
    value: Operand<ValueType>,
    offset: number,
    alignLog2 = 0,
  ): void {
    emitOperand(this.#out, 'i32', address);
    emitOperand(this.#out, type, value);
    emitMemory(this.#out, prefix, code, offset, alignLog2);
  }

  #bulk(code: number, operands: readonly I32[], memories: number): void {
    for (const operand of operands) emitOperand(this.#out, 'i32', operand);
    emitOpcode(this.#out, PREFIX.misc, code);
    for (let i = 0; i < memories; i++) this.#out.byte(0);
  }
}
