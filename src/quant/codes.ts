import type { GroupCode } from '../core/grouped.ts';

// Books of 16 numbers by 4-bit code.

const signed = (magnitudes: readonly number[]): Float32Array =>
  Float32Array.from([...magnitudes, ...magnitudes.map((v) => -v)]);

/** NF4: quantiles of the normal distribution, scaled to ±1. */
export const NF4: Float32Array = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334],
  ...[-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);

/** The FP4 of bitsandbytes, scaled to ±1: not in order. */
export const FP4: Float32Array = signed([0, 0.0052083333, 0.6666667, 1, 0.33333333, 0.5, 0.16666667, 0.25]);

/** E2M1, the numbers of the microscaling formats. */
export const E2M1: Float32Array = signed([0, 0.5, 1, 1.5, 2, 3, 4, 6]);

/** Value of a small float with `fractionBits` of fraction and the exponent bias `bias`; codes above are not numbers. */
export function smallFloat(code: number, fractionBits: number, bias: number): number {
  const sign = code & 128 ? -1 : 1;
  const exponent = (code & 127) >> fractionBits;
  const fraction = (code & ((1 << fractionBits) - 1)) / (1 << fractionBits);
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias);
}

/** E4M3 without infinities: only 0x7f and 0xff are NaN. */
export function e4m3(code: number): number {
  return (code & 127) === 127 ? Number.NaN : smallFloat(code, 3, 7);
}

/** Unsigned power of two; 255 is NaN. */
export function e8m0(code: number): number {
  return code === 255 ? Number.NaN : 2 ** (code - 127);
}

/** Nearest whole number, ties to even. */
function even(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}

const NAN_CODE = 127;

/** Small-float code of a number, ties to even; from `largest` on the code `top`. NaN stays NaN. */
function smallCode(x: number, fractionBits: number, bias: number, largest: number, top: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 128 : 0;
  const magnitude = Math.abs(x);
  if (Number.isNaN(magnitude)) return NAN_CODE;
  if (magnitude >= largest) return sign | top;
  const steps = 1 << fractionBits;
  const least = 2 ** (1 - bias);
  if (magnitude < least) return sign | even((magnitude / least) * steps);
  let exponent = Math.floor(Math.log2(magnitude));
  if (2 ** exponent > magnitude) exponent--;
  else if (2 ** (exponent + 1) <= magnitude) exponent++;
  // A fraction rounded up to a whole carries into the exponent, as it should.
  return sign | (((exponent + bias) << fractionBits) + even((magnitude / 2 ** exponent - 1) * steps));
}

/** E4M3 code of a number, ties to even; beyond ±448 that of ±448. NaN stays NaN. */
export function e4m3Code(x: number): number {
  return smallCode(x, 3, 7, 448, 126);
}

/** E5M2 code of a number, ties to even; beyond ±57344 that of ±57344. NaN stays NaN. */
export function e5m2Code(x: number): number {
  return smallCode(x, 2, 15, 57344, 0x7b);
}

/** The numbers that the codes of grouped rows stand for. */
export const CODE_VALUES: Readonly<Record<GroupCode, Float32Array>> = {
  u4: Float32Array.from({ length: 16 }, (_, code) => code),
  u8: Float32Array.from({ length: 256 }, (_, code) => code),
  i8: Float32Array.from({ length: 256 }, (_, code) => (code << 24) >> 24),
  e4m3: Float32Array.from({ length: 256 }, (_, code) => e4m3(code)),
  nf4: NF4,
  fp4: FP4,
  e2m1: E2M1,
};

/** The code whose number is nearest to `x`; of equally near ones the lowest. */
export function nearestCode(book: Float32Array, x: number): number {
  let best = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let code = 0; code < book.length; code++) {
    const error = Math.abs(Math.fround(x - book[code]!));
    if (error < least) {
      least = error;
      best = code;
    }
  }
  return best;
}
