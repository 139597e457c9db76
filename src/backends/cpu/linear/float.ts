import { bf16ToF32, f16ToF32 } from '../../../core/dtype.ts';
import { defineKernel, type KernelContext, split, splitRange, type Views } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, f32x4, i8x16, i32, v128 } from '../wasm/ops.ts';
import { halves, SIGN_AND_REST } from './block32.ts';
import { defineTileKernel, type TileKernel, type TilePointers } from './driver.ts';
import type { Activation, MakeFamily } from './family.ts';
import { GATHER_FIELDS } from './gather.ts';
import { ACTIVATION_SCALE, GROUP, HALF_SCALE, QUADS, RESULT_SCALE, TILE } from './layout.ts';
import { QUANTIZE_FIELDS } from './quantize.ts';
import { REPACK_FIELDS } from './repack.ts';

/**
 * Matrices of floats, multiplied by floats. A group of 8 rows is stored column by column, so that a tile reads it as one
 * stream; activations of a tile of `n` tokens as `[column][token]`.
 */
export interface FloatFormat {
  readonly name: 'F32' | 'F16' | 'BF16';
  readonly bytes: 2 | 4;
}

export const FLOAT_FORMATS: readonly FloatFormat[] = [
  { name: 'F32', bytes: 4 },
  { name: 'F16', bytes: 2 },
  { name: 'BF16', bytes: 2 },
];

/** binary16 weights are widened without correcting their exponent (`ACTIVATION_SCALE` in `layout.ts`). */
const isScaled = (format: FloatFormat) => format.name === 'F16';

/** Separate sums that hide the latency of the additions where a tile has few of its own. */
const chainsOf = (n: number): number => (n === 1 ? 2 : 1);

/** Two quads of weights of one column as floats. */
function loadColumn(
  f: FunctionBuilder,
  format: FloatFormat,
  at: Local<'i32'>,
  offset: number,
  w: Local<'v128'>[],
): void {
  if (format.name === 'F32') {
    w.forEach((quad, q) => {
      quad.set(v128.load(at, offset + 16 * q));
    });
    return;
  }
  const bits = f.v128('bits');
  if (format.name === 'F16') {
    halves(at, offset, f.pooled.i16x8(SIGN_AND_REST), bits, w);
    return;
  }
  bits.set(v128.load(at, offset));
  upperHalves(f, bits, w);
}

/** Eight 16-bit words as upper halves of floats, the lower ones zero: bfloat16. */
export function upperHalves(f: FunctionBuilder, bits: V128, quads: readonly Local<'v128'>[]): void {
  const zero = f.pooled.i32x4(0);
  quads[0]!.set(i8x16.shuffle(zero, bits, [0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23]));
  quads[1]!.set(i8x16.shuffle(zero, bits, [8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31]));
}

function elementOf(m: Views, format: FloatFormat, address: number): number {
  if (format.name === 'F32') return m.f32[address >>> 2]!;
  const bits = m.u16[address >>> 1]!;
  return format.name === 'F16' ? f16ToF32(bits) : bf16ToF32(bits);
}

function floatTile(format: FloatFormat, n: number): TileKernel {
  const columnBytes = GROUP * format.bytes;
  return defineTileKernel(format.name, n, {
    groupBytes: (columns) => i32.mul(columns, columnBytes),
    emitTile: (f, p, _, ctx) => emitTile(f, format, n, p, ctx),
    sumTwin(m, a, { group, row, tile, token, copy }) {
      const inputs = ((a.x >>> 0) + copy) / 4 + tile * n * a.columns + token;
      const first = (a.w >>> 0) + group * a.columns * columnBytes + row * format.bytes;
      const factor = isScaled(format) ? HALF_SCALE : 1;
      const weightOf = (k: number) => elementOf(m, format, first + k * columnBytes) * factor;
      const sum = chainedSumTwin(n, a.columns, weightOf, (k) => m.f32[inputs + k * n]!);
      return isScaled(format) ? Math.fround(sum * RESULT_SCALE) : sum;
    },
  });
}

/** Sums of 8 rows × `n` tokens over all columns. */
function emitTile(
  f: FunctionBuilder,
  format: FloatFormat,
  n: number,
  p: TilePointers,
  ctx: KernelContext,
): readonly (readonly Local<'v128'>[])[] {
  const load: LoadColumn = (offset, w) => loadColumn(f, format, p.pw, offset, w);
  const sums = chainedSums(f, n, GROUP * format.bytes, load, p, p.end, ctx).emit();
  if (isScaled(format)) {
    for (const sum of sums.flat()) sum.set(f32x4.mul(sum, f.inMemory.f32x4(RESULT_SCALE)));
  }
  return sums;
}

/** Loads the weights of a column, `offset` bytes behind the first one. */
export type LoadColumn = (offset: number, w: Local<'v128'>[]) => void;

/**
 * Sums of 8 rows × `n` tokens, in `chainsOf(n)` chains that are added at the end. What `emit` appends takes the pointers
 * from a column to `end`.
 */
export function chainedSums(
  f: FunctionBuilder,
  n: number,
  columnBytes: number,
  load: LoadColumn,
  p: Pick<TilePointers, 'pw' | 'px'>,
  end: Local<'i32'>,
  ctx: KernelContext,
) {
  const chains = chainsOf(n);
  const sums = Array.from({ length: chains }, (_, c) =>
    Array.from({ length: n }, (_, t) => f.v128s(`sum${c}_${t}_`, QUADS)),
  );
  const w = f.v128s('w', QUADS);
  const x = f.v128('x');
  const endOfChains = f.i32('endOfChains');
  const column = (chain: number) => {
    load(chain * columnBytes, w);
    for (let t = 0; t < n; t++) {
      x.set(v128.load32Splat(p.px, (chain * n + t) * 4));
      sums[chain]![t]!.forEach((sum, q) => {
        sum.set(ctx.madd(w[q]!, x, sum));
      });
    }
  };
  const advance = (count: number) => {
    p.pw.inc(count * columnBytes);
    p.px.inc(count * n * 4);
  };
  return {
    emit(): readonly (readonly Local<'v128'>[])[] {
      endOfChains.set(i32.sub(end, i32.and(i32.sub(end, p.pw), chains * columnBytes - 1)));
      for (const sum of sums.flat(2)) sum.set(v128.zero());
      f.while(i32.ltU(p.pw, endOfChains), () => {
        for (let chain = 0; chain < chains; chain++) column(chain);
        advance(chains);
      });
      if (chains > 1) {
        f.while(i32.ltU(p.pw, end), () => {
          column(0);
          advance(1);
        });
      }
      for (let half = chains / 2; half >= 1; half /= 2) {
        for (let c = 0; c < half; c++) {
          sums[c]!.flat().forEach((sum, i) => {
            sum.set(f32x4.add(sum, sums[c + half]!.flat()[i]!));
          });
        }
      }
      return sums[0]!;
    },
  };
}

/** One of these sums for twins. */
export function chainedSumTwin(
  n: number,
  columns: number,
  weightOf: (k: number) => number,
  inputOf: (k: number) => number,
): number {
  const chains = chainsOf(n);
  const whole = columns - (columns % chains);
  const sums = new Float32Array(chains);
  for (let k = 0; k < columns; k++) {
    const chain = k < whole ? k % chains : 0;
    sums[chain] = sums[chain]! + Math.fround(weightOf(k) * inputOf(k));
  }
  for (let half = chains / 2; half >= 1; half /= 2) {
    for (let c = 0; c < half; c++) sums[c] = sums[c]! + sums[c + half]!;
  }
  return sums[0]!;
}

/** A transposition of 8 rows: vectors of columns become columns of vectors. */
function floatRepack(format: FloatFormat) {
  const perVector = 16 / format.bytes;
  return defineKernel({
    name: `repack.${format.name}`,
    fields: REPACK_FIELDS,
    emit(f, { source, target, groups, columns }, ctx) {
      const { from, to } = split(f, groups, ctx);
      const rowBytes = f.i32('rowBytes', i32.mul(columns, format.bytes));
      const group = f.i32('group');
      const end = f.i32('end');
      const endOfVectors = f.i32('endOfVectors');
      const rows = Array.from({ length: GROUP }, (_, r) => f.i32(`row${r}`));
      target.inc(i32.mul(from, i32.mul(rowBytes, GROUP)));
      f.for(group, from, to, 1, () => {
        rows.forEach((row, r) => {
          row.set(r ? i32.add(rows[r - 1]!, rowBytes) : i32.add(source, i32.mul(group, i32.mul(rowBytes, GROUP))));
        });
        end.set(rows[1]!);
        endOfVectors.set(i32.sub(end, i32.mul(i32.and(columns, perVector - 1), format.bytes)));
        f.while(i32.ltU(rows[0]!, endOfVectors), () => {
          const vectors = rows.map((row, r) => f.v128(`vector${r}`, v128.load(row)));
          // Quads of floats, or all eight rows of 16-bit numbers.
          const sets = format.bytes === 4 ? [vectors.slice(0, 4), vectors.slice(4)] : [vectors];
          sets.forEach((set, s) => {
            transpose(f, set, format.bytes).forEach((column, k) => {
              f.v128Store(target, column, k * GROUP * format.bytes + 16 * s);
            });
          });
          for (const row of rows) row.inc(16);
          target.inc(16 * GROUP);
        });
        f.while(i32.ltU(rows[0]!, end), () => {
          rows.forEach((row, r) => {
            if (format.bytes === 4) f.i32Store(target, i32.load(row), 4 * r);
            else f.i32Store16(target, i32.load16U(row), 2 * r);
            row.inc(format.bytes);
          });
          target.inc(GROUP * format.bytes);
        });
      });
    },
    twin(m, { source, target, groups, columns }, tid, nt) {
      const [from, to] = splitRange(groups, tid, nt);
      for (let row = from * GROUP; row < to * GROUP; row++) {
        for (let k = 0; k < columns; k++) {
          const at = (source >>> 0) + (row * columns + k) * format.bytes;
          const column = Math.floor(row / GROUP) * columns + k;
          const slot = (target >>> 0) + (column * GROUP + (row % GROUP)) * format.bytes;
          m.u8.copyWithin(slot, at, at + format.bytes);
        }
      }
    },
  });
}

/** Interleaves the first half of the vectors with the second until lane `i` of vector `j` is lane `j` of vector `i`. */
function transpose(f: FunctionBuilder, vectors: readonly Local<'v128'>[], laneBytes: number): readonly Local<'v128'>[] {
  const half = vectors.length / 2;
  const lanes = Array.from({ length: 16 / laneBytes }, (_, lane) => lane);
  const order = (upper: number) =>
    lanes.flatMap((lane) => {
      const first = ((lane >> 1) + (upper * lanes.length) / 2) * laneBytes + (lane & 1 ? 16 : 0);
      return Array.from({ length: laneBytes }, (_, byte) => first + byte);
    });
  let current = vectors;
  for (let stage = 1; stage < vectors.length; stage *= 2) {
    const previous = current;
    current = previous.map((_, i) =>
      f.v128('lanes', i8x16.shuffle(previous[i >> 1]!, previous[(i >> 1) + half]!, order(i & 1))),
    );
  }
  return current;
}

function floatGather(format: FloatFormat) {
  return defineKernel({
    name: `gather.${format.name}`,
    fields: GATHER_FIELDS,
    emit(f, { w, columns, first, rows, ids, count, y }, ctx) {
      const { from, to } = split(f, count, ctx);
      const i = f.i32('i');
      const row = f.i32('row');
      const at = f.i32('at');
      const end = f.i32('end');
      const target = f.i32('target');
      const bits = f.i32('bits');
      f.for(i, from, to, 1, () => {
        row.set(i32.sub(i32.load(i32.add(ids, i32.shl(i, 2))), first));
        f.if(i32.ltU(row, rows), () => {
          const group = i32.mul(i32.mul(i32.and(row, -GROUP), columns), format.bytes);
          at.set(i32.add(w, i32.add(group, i32.mul(i32.and(row, GROUP - 1), format.bytes))));
          target.set(i32.add(y, i32.mul(i, i32.shl(columns, 2))));
          end.set(i32.add(target, i32.shl(columns, 2)));
          f.while(i32.ltU(target, end), () => {
            if (format.name === 'F32') {
              f.i32Store(target, i32.load(at));
            } else if (format.name === 'BF16') {
              f.i32Store(target, i32.shl(i32.load16U(at), 16));
            } else {
              bits.set(i32.load16S(at));
              const widened = f32.reinterpretI32(i32.and(i32.shl(bits, 13), 0x8fffe000));
              f.f32Store(target, f32.mul(widened, 1 / HALF_SCALE));
            }
            at.inc(GROUP * format.bytes);
            target.inc(4);
          });
        });
      });
    },
    twin(m, a, tid, nt) {
      const [from, to] = splitRange(a.count, tid, nt);
      for (let i = from; i < to; i++) {
        const row = m.i32[(a.ids >>> 2) + i]! - a.first;
        if (row < 0 || row >= a.rows) continue;
        const first = (a.w >>> 0) + (Math.floor(row / GROUP) * a.columns * GROUP + (row % GROUP)) * format.bytes;
        for (let k = 0; k < a.columns; k++) {
          m.f32[(a.y >>> 2) + i * a.columns + k] = elementOf(m, format, first + k * GROUP * format.bytes);
        }
      }
    },
  });
}

/** Rows of a tile side by side, times `factor`. */
function interleave(name: string, factor: number) {
  return defineKernel({
    name,
    fields: QUANTIZE_FIELDS,
    emit(f, { x, q, rows, columns, copyStride }, ctx) {
      const { from, to } = split(f, rows, ctx);
      f.if(copyStride, () => {
        from.set(0);
        to.set(rows);
        q.inc(i32.mul(copyStride, ctx.tid));
      });
      const row = f.i32('row');
      const first = f.i32('first');
      const tokens = f.i32('tokens');
      const stride = f.i32('stride');
      const px = f.i32('px');
      const pq = f.i32('pq');
      const end = f.i32('end');
      f.for(row, from, to, 1, () => {
        first.set(i32.and(row, -TILE));
        tokens.set(i32.sub(rows, first));
        stride.set(i32.shl(i32.select(i32.ltU(tokens, TILE), tokens, TILE), 2));
        px.set(i32.add(x, i32.mul(row, i32.shl(columns, 2))));
        end.set(i32.add(px, i32.shl(columns, 2)));
        pq.set(i32.add(q, i32.add(i32.mul(first, i32.shl(columns, 2)), i32.shl(i32.sub(row, first), 2))));
        f.while(i32.ltU(px, end), () => {
          f.f32Store(pq, factor === 1 ? f32.load(px) : f32.mul(f32.load(px), factor));
          px.inc(4);
          pq.inc(stride);
        });
      });
    },
    twin(m, { x, q, rows, columns, copyStride }, tid, nt) {
      const [from, to] = copyStride ? [0, rows] : splitRange(rows, tid, nt);
      const target = ((q >>> 0) + copyStride * tid) / 4;
      for (let row = from; row < to; row++) {
        const first = row - (row % TILE);
        const tokens = Math.min(TILE, rows - first);
        for (let k = 0; k < columns; k++) {
          m.f32[target + first * columns + k * tokens + row - first] = m.f32[(x >>> 2) + row * columns + k]! * factor;
        }
      }
    },
  });
}

function floatActivation(name: string, factor: number): Activation {
  const kernel = interleave(name, factor);
  return {
    name,
    kernel,
    direct: factor === 1,
    codeBytes: (columns) => 4 * columns,
    scaleBytes: () => 0,
    sumBytes: () => 0,
  };
}
/** Rows as they are, those of a tile side by side. */
export const PLAIN = floatActivation('interleave', 1);
/** The same times `ACTIVATION_SCALE`. */
export const SCALED = floatActivation('interleave.scaled', ACTIVATION_SCALE);

export function floatFamily(format: FloatFormat): MakeFamily {
  return () => ({
    format: format.name,
    activation: isScaled(format) ? SCALED : PLAIN,
    groupBytes: (columns) => GROUP * format.bytes * columns,
    repack: floatRepack(format),
    gather: floatGather(format),
    tiles: [floatTile(format, 1), floatTile(format, 2), floatTile(format, 3), floatTile(format, 4)],
  });
}
