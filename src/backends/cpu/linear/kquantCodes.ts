import type { Variant, Views } from '../kernel.ts';
import type { I32, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i8x16, i16x8, v128 } from '../wasm/ops.ts';
import { type CodeFormat, PAIR_STEPS } from './kquant.ts';
import { GROUP, QUADS } from './layout.ts';

const VECTOR = 16;
/** Distance of vectors of one quad. */
export const VECTOR_STRIDE = VECTOR * QUADS;

/** `bits` bits at bit `from` of the bytes of vector `vector` of a pair are bits `to` … of a code. */
interface Piece {
  readonly vector: number;
  readonly from: number;
  readonly bits: number;
  readonly to: number;
}
const piece = (vector: number, from: number, bits: number, to = 0): Piece => ({ vector, from, bits, to });

const FIVE_BITS: readonly (readonly Piece[])[] = [
  [piece(0, 0, 5)],
  [piece(1, 0, 5)],
  [piece(0, 5, 3), piece(1, 5, 2, 3)],
  [piece(2, 0, 5)],
  [piece(3, 0, 5)],
  [piece(2, 5, 3), piece(3, 5, 2, 3)],
  [piece(4, 0, 5)],
  [piece(4, 5, 3), piece(1, 7, 1, 3), piece(3, 7, 1, 4)],
];

/**
 * Where the code of each step of a pair lies. Codes whose width does not divide 8 fill a byte up with parts of a further
 * code: three bytes of 6 bits carry a fourth code in their upper bits, three bytes of two 3-bit codes carry two more.
 */
function piecesOf(bits: CodeFormat['bits'], step: number): readonly Piece[] {
  const half = step >> 2;
  const inHalf = step & 3;
  switch (bits) {
    case 1:
      return [piece(0, step, 1)];
    case 2:
      return [piece(half, 2 * inHalf, 2)];
    case 3:
      if (step < 6) return [piece(step >> 1, 3 * (step & 1), 3)];
      return step === 6 ? [piece(0, 6, 2), piece(1, 6, 1, 2)] : [piece(1, 7, 1), piece(2, 6, 2, 1)];
    case 4:
      return [piece(step >> 1, 4 * (step & 1), 4)];
    case 5:
      return FIVE_BITS[step]!;
    case 6:
      if (inHalf < 3) return [piece(3 * half + inHalf, 0, 6)];
      return [0, 1, 2].map((i) => piece(3 * half + i, 6, 2, 2 * i));
    case 8:
      return [piece(step, 0, 8)];
  }
}

const PIECES = Object.fromEntries(
  ([1, 2, 3, 4, 5, 6, 8] as const).map((bits) => [
    bits,
    Array.from({ length: PAIR_STEPS }, (_, step) => piecesOf(bits, step)),
  ]),
) as unknown as Readonly<Record<CodeFormat['bits'], readonly (readonly Piece[])[]>>;

/** Steps with vectors of their own, after which the next ones are laid out alike. */
export function stepsAlike({ bits }: CodeFormat): 1 | 2 | 4 | 8 {
  if (bits === 8) return 1;
  if (bits === 4) return 2;
  return bits % 2 === 0 ? 4 : PAIR_STEPS;
}

const shifted = (v: V128, left: number): V128 => (left > 0 ? i16x8.shl(v, left) : left < 0 ? i16x8.shrU(v, -left) : v);

/** Emits the decoding of the codes of a pair. */
export interface CodeReader {
  /** Forgets the vectors of the previous pair. */
  startPair(): void;
  /** The codes of one step of a quad, a byte each; `at` points `offset` bytes in front of the pair. */
  codes(quad: number, step: number, at: I32, offset: number): V128;
  /** The same as values plus offset. */
  bytes(quad: number, step: number, at: I32, offset: number): V128;
  /** The values of columns 0 and 2 (`half` 0) or 1 and 3 of a step as 16-bit numbers; halves are asked for in order. */
  words(quad: number, step: number, half: number, at: I32, offset: number): V128;
}

export function codeReader(f: FunctionBuilder, format: CodeFormat, variant: Variant): CodeReader {
  const pieces = PIECES[format.bits];
  const raw = Array.from({ length: QUADS }, (_, quad) => f.v128s(`raw${quad}_`, format.bits));
  const current = f.v128s('step', QUADS);
  const upper = f.v128s('upper', format.book ? QUADS : 0);
  const loaded = new Set<Local<'v128'>>();
  const tableOf = (shift: number) =>
    format.table && format.bits > 1
      ? f.pooled.bytes(Array.from({ length: 16 }, (_, i) => ((format.table![i] ?? 0) + (format.offset ?? 0)) >> shift))
      : undefined;
  const table = tableOf(0);
  const upperTable = format.book && tableOf(8);
  const lookUp = variant.dot === 'simd' ? i8x16.swizzle : i8x16.relaxedSwizzle;
  const spread = format.bits === 1 ? 1 : 0;
  const codes: CodeReader['codes'] = (quad, step, at, offset) => {
    let code: V128 | undefined;
    for (const p of pieces[step]!) {
      const v = raw[quad]![p.vector]!;
      if (!loaded.has(v)) v.set(v128.load(at, offset + p.vector * VECTOR_STRIDE + quad * VECTOR));
      loaded.add(v);
      const to = p.to + spread;
      const part = v128.and(shifted(v, to - p.from), f.pooled.i8x16(((1 << p.bits) - 1) << to));
      code = code ? v128.or(code, part) : part;
    }
    return code!;
  };
  const bytes: CodeReader['bytes'] = (quad, step, at, offset) => {
    const code = codes(quad, step, at, offset);
    return table ? lookUp(table, code) : code;
  };
  return {
    startPair: () => loaded.clear(),
    codes,
    bytes,
    words(quad, step, half, at, offset) {
      if (format.bits === 8) {
        const from = offset + step * VECTOR_STRIDE + (half * QUADS + quad) * GROUP;
        return format.offset === undefined ? v128.load8x8S(at, from) : v128.load8x8U(at, from);
      }
      const v = current[quad]!;
      const high = upper[quad];
      if (high) {
        if (half === 0) {
          high.set(codes(quad, step, at, offset));
          v.set(lookUp(table!, high));
          high.set(lookUp(upperTable!, high));
          return v128.or(v128.and(v, f.pooled.i16x8(255)), i16x8.shl(high, 8));
        }
        return v128.or(i16x8.shrU(v, 8), v128.and(high, f.pooled.i16x8(-256)));
      }
      if (half === 0) v.set(bytes(quad, step, at, offset));
      if (format.offset === undefined) return half ? i16x8.shrS(v, 8) : i16x8.shrS(i16x8.shl(v, 8), 8);
      return half ? i16x8.shrU(v, 8) : v128.and(v, f.pooled.i16x8(255));
    },
  };
}

/** Stores the codes of one quad and pair: `codes[step]` has a byte per row and column. */
export function storePair(
  f: FunctionBuilder,
  format: CodeFormat,
  codes: readonly Local<'v128'>[],
  at: I32,
  offset: number,
): void {
  if (format.bits === 8) {
    codes.forEach((v, step) => {
      v.set(i8x16.shuffle(v, v, [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]));
      for (let half = 0; half < 2; half++) {
        f.v128StoreLane(64, at, v, half, offset + step * VECTOR_STRIDE + half * QUADS * GROUP);
      }
    });
    return;
  }
  const vectors: (V128 | undefined)[] = [];
  PIECES[format.bits].forEach((list, step) => {
    for (const p of list) {
      const whole = p.to === 0 && list.length === 1;
      const part = whole ? codes[step]! : v128.and(codes[step]!, f.inMemory.i8x16(((1 << p.bits) - 1) << p.to));
      const moved = shifted(part, p.from - p.to);
      const others = vectors[p.vector];
      vectors[p.vector] = others ? v128.or(others, moved) : moved;
    }
  });
  vectors.forEach((v, i) => {
    f.v128Store(at, v!, offset + i * VECTOR_STRIDE);
  });
}

/** The step of column `k` of a pair. */
export function stepOf(format: CodeFormat, k: number): number {
  return format.inputs !== 256 ? 2 * ((k & 15) >> 2) + (k >> 4) : k >> 2;
}

/** For twins: the bytes and bits of the code of `row` and column `k` (0 … 31) of the pair at byte `pair`. */
function places(format: CodeFormat, pair: number, row: number, k: number): [at: number, piece: Piece][] {
  const step = stepOf(format, k);
  const quad = row >> 2;
  if (format.bits === 8) {
    const half = (k & 1) * QUADS + quad;
    const at = pair + step * VECTOR_STRIDE + half * GROUP + (row & 3) * 2 + ((k & 3) >> 1);
    return [[at, PIECES[8][step]![0]!]];
  }
  const lane = quad * VECTOR + (row & 3) * 4 + (k & 3);
  return PIECES[format.bits][step]!.map((p) => [pair + p.vector * VECTOR_STRIDE + lane, p]);
}

/** The code as stored. */
export function codeOf(m: Views, format: CodeFormat, pair: number, row: number, k: number): number {
  let code = 0;
  for (const [at, p] of places(format, pair, row, k)) {
    code |= ((m.u8[at]! >> p.from) & ((1 << p.bits) - 1)) << p.to;
  }
  return code;
}

/** The signed value that a code stands for. */
export function decoded(format: CodeFormat, code: number): number {
  if (format.bits === 8) return format.offset === undefined ? (code << 24) >> 24 : code;
  return format.table ? format.table[code]! : code - (format.offset ?? 0);
}

/** Adds a code to bytes that were zero. */
export function putCode(m: Views, format: CodeFormat, pair: number, row: number, k: number, code: number): void {
  for (const [at, p] of places(format, pair, row, k)) {
    m.u8[at]! |= ((code >> p.to) & ((1 << p.bits) - 1)) << p.from;
  }
}

/** Words of activations that a step reads per token. */
export const wordsPerStep = (wide: boolean): number => (wide ? 2 : 1);
