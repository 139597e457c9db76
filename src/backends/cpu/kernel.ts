/**
 * The kernel contract. A kernel is one WebAssembly function `(command, tid, nt) -> ()`: thread `tid` of `nt` does its
 * share of one command, whose arguments are fields of a fixed-size record in memory. Beside it stands its **twin**, plain
 * TypeScript over the same memory with the same layout and the same rounding (`Math.fround` after every operation), which
 * is the documentation, the fallback where there is no SIMD, and the test: the SIMD128 variant must give the same bits.
 *
 * To write one: `defineKernel({ name, fields, emit, twin })`, see `select` in `kernels/elementwise.ts`, and bind it to an op
 * in `kernels/bind/`. Rules:
 * - pointers are byte addresses below 4 GiB: unsigned comparisons, and `>>> 2` in twins;
 * - divide the work with `split` (in `emit`) and `splitRange` (in the twin); no thread may write what another one touches
 *   in the same command; commands are separated by a barrier unless marked independent;
 * - vector constants used in loops come from `f.pooled`; loops are not unrolled beyond about 16 multiply-adds;
 * - `ctx.madd(a, b, c)` is `a * b + c`: fused where the variant is relaxed, so only the other variants are bit-exact;
 * - arrays may be of any length and start at any multiple of 4: handle the tail.
 */
import type { Expr, I32, V128 } from './wasm/expr.ts';
import type { FunctionBuilder, FunctionRef, Local } from './wasm/function.ts';
import { f32, f32x4, i32 } from './wasm/ops.ts';

/** Bytes of a command record. */
export const COMMAND_BYTES = 128;
/** Word of a command that holds the kernel's table index, and the word that holds flags. */
export const COMMAND_KERNEL = 0;
export const COMMAND_FLAGS = 1;
/** First word of the arguments. */
export const COMMAND_ARGUMENTS = 2;
/** Last word of a command, which starts as 0: kernels may count with it. */
export const COMMAND_COUNTER = COMMAND_BYTES / 4 - 1;
const MAX_FIELDS = COMMAND_COUNTER - COMMAND_ARGUMENTS;

/** Which instructions kernels may use. */
export interface Variant {
  /** Relaxed SIMD for float arithmetic: fused multiply-add, whose rounding differs between engines. */
  readonly fma: boolean;
  /** Integer dot product of int8 activations: relaxed with 16- or 32-bit sums, or plain SIMD128. All give the same integers. */
  readonly dot: 'i16' | 'i32' | 'simd';
}

export type FieldTypes = Readonly<Record<string, 'i32' | 'f32'>>;
export type Fields<F extends FieldTypes> = { readonly [K in keyof F]: number };

/** The memory as the twins see it. */
export interface Views {
  readonly i8: Int8Array;
  readonly u8: Uint8Array;
  readonly i16: Int16Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
  readonly u32: Uint32Array;
  readonly f32: Float32Array;
}

export function viewsOf(memory: ArrayBufferLike): Views {
  return {
    i8: new Int8Array(memory),
    u8: new Uint8Array(memory),
    i16: new Int16Array(memory),
    u16: new Uint16Array(memory),
    i32: new Int32Array(memory),
    u32: new Uint32Array(memory),
    f32: new Float32Array(memory),
  };
}

/** What `emit` gets beside the arguments. */
export interface KernelContext {
  readonly tid: Local<'i32'>;
  readonly nt: Local<'i32'>;
  readonly variant: Variant;
  /** `a * b + c` on four floats. */
  madd(a: V128, b: V128, c: V128): V128;
  /** Calls the kernel of a table entry with a command record made for it. */
  callKernel(entry: I32, command: I32, tid: I32, nt: I32): void;
}

/** `callKernel` for twins. */
export type CallTwin = (entry: number, command: number, tid: number, nt: number) => void;

export interface KernelSpec<F extends FieldTypes> {
  readonly name: string;
  /** The arguments in the order of their words in the command. */
  readonly fields: F;
  /** `args` are locals already loaded from the command; they may be changed. */
  emit(f: FunctionBuilder, args: { readonly [K in keyof F]: Local<F[K]> }, ctx: KernelContext): void;
  twin(memory: Views, args: Fields<F>, tid: number, nt: number, call: CallTwin): void;
}

export interface Kernel<F extends FieldTypes = FieldTypes> {
  readonly name: string;
  readonly fields: F;
  /** Word offset of every argument inside a command: `words[command + kernel.at.x] = pointer`. */
  readonly at: Fields<F>;
  /** Appends the body to a function with the parameters `command`, `tid`, `nt`, whose signature is `type`. */
  emit(
    f: FunctionBuilder,
    command: Local<'i32'>,
    tid: Local<'i32'>,
    nt: Local<'i32'>,
    variant: Variant,
    type?: FunctionRef,
  ): void;
  /** Runs the twin on the command at byte address `command`. */
  runTwin(memory: Views, command: number, tid: number, nt: number, call?: CallTwin): void;
}

export function defineKernel<const F extends FieldTypes>(spec: KernelSpec<F>): Kernel<F> {
  const names = Object.keys(spec.fields);
  if (names.length > MAX_FIELDS)
    throw new RangeError(`${spec.name}: ${names.length} arguments, at most ${MAX_FIELDS} fit`);
  const at = Object.fromEntries(names.map((name, i) => [name, COMMAND_ARGUMENTS + i])) as Fields<F>;
  return {
    name: spec.name,
    fields: spec.fields,
    at,
    emit(f, command, tid, nt, variant, type) {
      const args = names.map((name, i) => {
        const offset = (COMMAND_ARGUMENTS + i) * 4;
        const local =
          spec.fields[name] === 'f32' ? f.f32(name, f32.load(command, offset)) : f.i32(name, i32.load(command, offset));
        return [name, local];
      });
      const madd = (a: V128, b: V128, c: V128) =>
        variant.fma ? f32x4.relaxedMadd(a, b, c) : f32x4.add(f32x4.mul(a, b), c);
      const callKernel = (entry: I32, record: I32, t: I32, n: I32) => {
        if (!type) throw new TypeError(`${spec.name}: built without a way to call other kernels`);
        f.callIndirect(type, entry, record, t, n);
      };
      spec.emit(f, Object.fromEntries(args), { tid, nt, variant, madd, callKernel });
    },
    runTwin(memory, command, tid, nt, call = cannotCall) {
      const word = command >>> 2;
      const args = names.map((name, i) => {
        const index = word + COMMAND_ARGUMENTS + i;
        return [name, spec.fields[name] === 'f32' ? memory.f32[index] : memory.i32[index]];
      });
      spec.twin(memory, Object.fromEntries(args), tid, nt, call);
    },
  };
}

function cannotCall(): never {
  throw new TypeError('a twin was run without a way to call others');
}

/**
 * The share `[from, to)` of thread `tid` in `count` units of work: consecutive, and equal up to one unit. Returns locals.
 */
export function split(f: FunctionBuilder, count: I32, ctx: KernelContext): { from: Local<'i32'>; to: Local<'i32'> } {
  const total = f.i32('count', count);
  const each = i32.divU(total, ctx.nt);
  const rest = i32.remU(total, ctx.nt);
  const start = (tid: Expr<'i32'>) => i32.add(i32.mul(tid, each), i32.select(i32.ltU(tid, rest), tid, rest));
  return { from: f.i32('from', start(ctx.tid)), to: f.i32('to', start(i32.add(ctx.tid, 1))) };
}

/** The same for twins. */
export function splitRange(count: number, tid: number, nt: number): readonly [from: number, to: number] {
  const each = Math.floor(count / nt);
  const rest = count % nt;
  const start = (t: number) => t * each + Math.min(t, rest);
  return [start(tid), start(tid + 1)];
}
