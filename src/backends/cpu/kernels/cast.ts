import type { DType } from '../../../core/dtype.ts';
import { f16ToF32, f32ToF16 } from '../../../core/dtype.ts';
import type { KernelContext } from '../kernel.ts';
import { defineKernel, type Kernel, split, splitRange, type Views } from '../kernel.ts';
import type { Expr, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../wasm/ops.ts';

/** How four elements of a type become floats, and the other way; `bits` is the element's size. */
interface Codec {
  readonly bits: 8 | 16 | 32;
  /** From four zero-extended 32-bit lanes. */
  decode(f: FunctionBuilder, lanes: Local<'v128'>): V128;
  /** To the low bits of four 32-bit lanes. */
  encode(f: FunctionBuilder, floats: Local<'v128'>): V128;
  readonly twinDecode: (stored: number) => number;
  readonly twinEncode: (value: number) => number;
}

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);
const bitsOf = (x: number): number => {
  float[0] = x;
  return word[0]!;
};
const fromBits = (bits: number): number => {
  word[0] = bits;
  return float[0]!;
};
const clampInt = (x: number, low: number, high: number) =>
  Number.isNaN(x) ? 0 : Math.min(high, Math.max(low, Math.trunc(x)));

const INFINITE = 0x7f800000;

const CODECS: Readonly<Record<Exclude<DType, 'f32'>, Codec>> = {
  i32: {
    bits: 32,
    decode: (_, x) => f32x4.convertI32x4S(x),
    encode: (_, x) => i32x4.truncSatF32x4S(x),
    twinDecode: (x) => x | 0,
    twinEncode: (x) => clampInt(x, -(2 ** 31), 2 ** 31 - 1),
  },
  u8: {
    bits: 8,
    decode: (_, x) => f32x4.convertI32x4S(x),
    encode: (f, x) => i32x4.minS(i32x4.maxS(i32x4.truncSatF32x4S(x), f.pooled.i32x4(0)), f.pooled.i32x4(255)),
    twinDecode: (x) => x,
    twinEncode: (x) => clampInt(x, 0, 255),
  },
  bf16: {
    bits: 16,
    decode: (_, x) => i32x4.shl(x, 16),
    encode(f, x) {
      const even = v128.and(i32x4.shrU(x, 16), f.pooled.i32x4(1));
      const rounded = i32x4.shrU(i32x4.add(i32x4.add(x, f.pooled.i32x4(0x7fff)), even), 16);
      const quiet = v128.or(i32x4.shrU(x, 16), f.pooled.i32x4(64));
      return v128.bitselect(rounded, quiet, f32x4.eq(x, x));
    },
    twinDecode: (x) => fromBits(x << 16),
    twinEncode(x) {
      const bits = bitsOf(x);
      return Number.isNaN(x) ? (bits >>> 16) | 64 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
    },
  },
  f16: {
    bits: 16,
    decode(f, x) {
      // Exponent and fraction in place, times 2¹¹², is right for all finite numbers; the others get all exponent bits.
      const sign = f.v128('sign', i32x4.shl(v128.and(x, f.pooled.i32x4(0x8000)), 16));
      const magnitude = f.v128('magnitude', i32x4.shl(v128.and(x, f.pooled.i32x4(0x7fff)), 13));
      const finite = f32x4.mul(magnitude, f.pooled.f32x4(2 ** 112));
      const special = v128.or(magnitude, f.pooled.i32x4(INFINITE));
      const isSpecial = i32x4.gtS(magnitude, f.pooled.i32x4(0x0f7fffff));
      return v128.or(v128.bitselect(special, finite, isSpecial), sign);
    },
    encode(f, x) {
      const sign = f.v128('sign', v128.and(i32x4.shrU(x, 16), f.pooled.i32x4(0x8000)));
      const magnitude = f.v128('magnitude', v128.and(x, f.pooled.i32x4(0x7fffffff)));
      // Small numbers: adding ½ leaves the rounded fraction in the low bits of the sum.
      const small = i32x4.sub(f32x4.add(magnitude, f.pooled.f32x4(0.5)), f.pooled.i32x4(0x3f000000));
      const odd = v128.and(i32x4.shrU(magnitude, 13), f.pooled.i32x4(1));
      const normal = i32x4.shrU(
        i32x4.sub(i32x4.add(i32x4.add(magnitude, f.pooled.i32x4(0xfff)), odd), f.pooled.i32x4(0x38000000)),
        13,
      );
      const isNormal = i32x4.gtS(magnitude, f.pooled.i32x4(0x387fffff));
      const isLarge = i32x4.gtS(magnitude, f.pooled.i32x4(0x477fefff));
      const isNan = i32x4.gtS(magnitude, f.pooled.i32x4(INFINITE));
      const finite = v128.bitselect(normal, small, isNormal);
      const infinite = v128.bitselect(f.pooled.i32x4(0x7c00), finite, isLarge);
      return v128.or(v128.bitselect(f.pooled.i32x4(0x7e00), infinite, isNan), sign);
    },
    twinDecode: f16ToF32,
    twinEncode: f32ToF16,
  },
};

type Stored = keyof typeof CODECS;

function memoryOf(m: Views, dtype: DType): Float32Array | Int32Array | Uint16Array | Uint8Array {
  if (dtype === 'f32') return m.f32;
  if (dtype === 'i32') return m.i32;
  return dtype === 'u8' ? m.u8 : m.u16;
}
const SHIFT: Readonly<Record<DType, number>> = { f32: 2, i32: 2, f16: 1, bf16: 1, u8: 0 };

/** Four elements at `p` (the first `count` of them, where given) zero-extended to 32-bit lanes. */
function loadLanes(
  f: FunctionBuilder,
  bits: 8 | 16 | 32,
  p: Local<'i32'>,
  count: Expr<'i32'> | undefined,
): Local<'v128'> {
  if (count === undefined) {
    if (bits === 32) return f.v128('lanes', v128.load(p));
    if (bits === 16) return f.v128('lanes', v128.load16x4U(p));
    const bytes = f.v128('bytes', v128.load32Zero(p));
    return f.v128('lanes', i32x4.extendLowI16x8U(i16x8.extendLowI8x16U(bytes)));
  }
  const lanes = f.v128('lanes', v128.zero());
  const one = (i: number) =>
    bits === 32 ? i32.load(p, 4 * i) : bits === 16 ? i32.load16U(p, 2 * i) : i32.load8U(p, i);
  for (let i = 0; i < 3; i++) {
    f.if(i32.gtU(count, i), () => lanes.set(i32x4.replaceLane(lanes, i, one(i))));
  }
  return lanes;
}

function storeLanes(
  f: FunctionBuilder,
  bits: 8 | 16 | 32,
  p: Local<'i32'>,
  lanes: Local<'v128'>,
  count: Expr<'i32'> | undefined,
): void {
  if (count !== undefined) {
    for (let i = 0; i < 3; i++) {
      f.if(i32.gtU(count, i), () => f.v128StoreLane(bits, p, lanes, (i * 32) / bits, (i * bits) / 8));
    }
    return;
  }
  if (bits === 32) f.v128Store(p, lanes);
  else {
    const step = bits / 8;
    const bytes = Array.from({ length: 4 * step }, (_, i) => Math.floor(i / step) * 4 + (i % step));
    const packed = f.v128(
      'packed',
      i8x16.shuffle(lanes, lanes, [...bytes, ...new Array<number>(16 - bytes.length).fill(0)]),
    );
    f.v128StoreLane(bits === 16 ? 64 : 32, p, packed, 0);
  }
}

const FIELDS = { out: 'i32', x: 'i32', n: 'i32' } as const;

function emitCast(
  f: FunctionBuilder,
  { out, x, n }: Readonly<Record<keyof typeof FIELDS, Local<'i32'>>>,
  ctx: KernelContext,
  fromBits: 8 | 16 | 32,
  toBits: 8 | 16 | 32,
  convert: (lanes: Local<'v128'>) => V128,
): void {
  const { from, to } = split(f, i32.shrU(n, 2), ctx);
  const px = f.i32('px', i32.add(x, i32.mul(from, fromBits / 2)));
  const po = f.i32('po', i32.add(out, i32.mul(from, toBits / 2)));
  const step = (count: Expr<'i32'> | undefined) => {
    const result = f.v128('result', convert(loadLanes(f, fromBits, px, count)));
    storeLanes(f, toBits, po, result, count);
  };
  const vector = f.i32('vector');
  f.for(vector, from, to, 1, () => {
    step(undefined);
    px.inc(fromBits / 2);
    po.inc(toBits / 2);
  });
  f.if(i32.eq(i32.add(ctx.tid, 1), ctx.nt), () => step(i32.and(n, 3)));
}

function twinRange(n: number, tid: number, nt: number): readonly [number, number] {
  const [from, to] = splitRange(n >>> 2, tid, nt);
  return [from * 4, tid === nt - 1 ? n : to * 4];
}

/** Stored elements to floats. */
const decodeKernel = (dtype: Stored) =>
  defineKernel({
    name: `cast.${dtype}.f32`,
    fields: FIELDS,
    emit(f, a, ctx) {
      emitCast(f, a, ctx, CODECS[dtype].bits, 32, (lanes) => CODECS[dtype].decode(f, lanes));
    },
    twin(m, { out, x, n }, tid, nt) {
      const from = memoryOf(m, dtype);
      const at = (x >>> 0) / (1 << SHIFT[dtype]);
      const [start, end] = twinRange(n, tid, nt);
      for (let i = start; i < end; i++) m.f32[(out >>> 2) + i] = CODECS[dtype].twinDecode(from[at + i]!);
    },
  });

/** Floats to stored elements: nearest for floats, truncated and saturated for integers. */
const encodeKernel = (dtype: Stored) =>
  defineKernel({
    name: `cast.f32.${dtype}`,
    fields: FIELDS,
    emit(f, a, ctx) {
      emitCast(f, a, ctx, 32, CODECS[dtype].bits, (lanes) => CODECS[dtype].encode(f, lanes));
    },
    twin(m, { out, x, n }, tid, nt) {
      const to = memoryOf(m, dtype);
      const at = (out >>> 0) / (1 << SHIFT[dtype]);
      const [start, end] = twinRange(n, tid, nt);
      for (let i = start; i < end; i++) to[at + i] = CODECS[dtype].twinEncode(m.f32[(x >>> 2) + i]!);
    },
  });

export const decodeKernels = {
  i32: decodeKernel('i32'),
  u8: decodeKernel('u8'),
  bf16: decodeKernel('bf16'),
  f16: decodeKernel('f16'),
} as const;
export const encodeKernels = {
  i32: encodeKernel('i32'),
  u8: encodeKernel('u8'),
  bf16: encodeKernel('bf16'),
  f16: encodeKernel('f16'),
} as const;
export const castKernels = [...Object.values(decodeKernels), ...Object.values(encodeKernels)] as readonly Kernel[];
