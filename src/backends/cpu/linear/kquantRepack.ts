import { f16ToF32 } from '../../../core/dtype.ts';
import { defineKernel, split, splitRange, type Views } from '../kernel.ts';
import type { I32, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, i8x16, i16x8, i32, v128 } from '../wasm/ops.ts';
import { codeOffsets, PAIR } from './kquant.ts';
import { putCode, storePair } from './kquantCodes.ts';
import type { StoredBits, StoredFormat } from './kquantStored.ts';
import { GROUP, QUADS } from './layout.ts';
import { REPACK_FIELDS } from './repack.ts';

const HALF_SIGN = 0x8000;

/** From rows of blocks to interleaved groups of 8 rows (`kquant.ts`); the arguments are those of `repack.ts`. */
export function codeRepackKernel(stored: StoredFormat, name: string) {
  const { format } = stored;
  const offsets = codeOffsets(format);
  return defineKernel({
    name: `repack.${name}`,
    fields: REPACK_FIELDS,
    emit(f, { source, target, groups, columns }, ctx) {
      const { from, to } = split(f, groups, ctx);
      const blocks = f.i32('blocks', i32.shrU(columns, Math.log2(format.block)));
      const rowBytes = f.i32('rowBytes', i32.mul(blocks, stored.bytes));
      const group = f.i32('group');
      const first = f.i32('first');
      const end = f.i32('end');
      const row = f.i32('row');
      const lane = f.i32('lane');
      const quad = f.i32('quad');
      target.inc(i32.mul(from, i32.mul(blocks, offsets.bytes)));
      f.for(group, from, to, 1, () => {
        first.set(i32.add(source, i32.mul(group, i32.mul(rowBytes, GROUP))));
        end.set(i32.add(first, rowBytes));
        f.while(i32.ltU(first, end), () => {
          row.set(first);
          f.for(lane, 0, GROUP, 1, () => {
            repackScales(f, stored, row, target, lane);
            row.inc(rowBytes);
          });
          row.set(first);
          f.for(quad, 0, QUADS, 1, () => repackCodes(f, stored, row, rowBytes, target, quad));
          first.inc(stored.bytes);
          target.inc(offsets.bytes);
        });
      });
    },
    twin(m, { source, target, groups, columns }, tid, nt) {
      const [from, to] = splitRange(groups, tid, nt);
      const blocks = columns / format.block;
      for (let group = from; group < to; group++) {
        for (let b = 0; b < blocks; b++) {
          const block = (target >>> 0) + (group * blocks + b) * offsets.bytes;
          m.u8.fill(0, block, block + offsets.bytes);
          for (let r = 0; r < GROUP; r++) {
            const at = (source >>> 0) + ((group * GROUP + r) * blocks + b) * stored.bytes;
            repackScalesTwin(m, stored, at, block, r);
            for (let k = 0; k < format.block; k++) {
              const pair = block + offsets.codes + Math.floor(k / PAIR) * offsets.pair;
              putCode(m, format, pair, r, k % PAIR, readBits(m, stored.codes(k >> 4), at + (k & 15)));
            }
          }
        }
      }
    },
  });
}

/** Scales and minima of one row. */
function repackScales(
  f: FunctionBuilder,
  stored: StoredFormat,
  row: Local<'i32'>,
  target: Local<'i32'>,
  lane: Local<'i32'>,
): void {
  const { format, scale, second } = stored;
  const offsets = codeOffsets(format);
  const bits = f.i32('bits');
  const place = f.i32('place');
  place.set(i32.add(target, i32.shl(lane, format.scale === 'f32' ? 2 : 1)));
  const store = (from: number, to: number, negate: boolean) => {
    if (scale.kind === 'f32') return f.i32Store(place, i32.load(row, from), to);
    if (scale.kind === 'e8m0') {
      // 2^(e − 128) as bfloat16; the two lowest are subnormal.
      bits.set(i32.load8U(row, from));
      const subnormal = i32.shl(0x20, bits);
      bits.set(i32.select(i32.gtU(bits, 1), i32.shl(i32.sub(bits, 1), 7), subnormal));
    } else bits.set(i32.load16U(row, from));
    if (format.scale !== 'f32') return f.i32Store16(place, bits, to);
    if (negate) bits.set(i32.xor(bits, HALF_SIGN));
    f.f32Store(place, halfToFloat(bits), to);
  };
  store(scale.at, 0, false);
  if (second !== undefined) store(second, offsets.second, format.minimum !== undefined);
  if (!format.run) return;
  place.set(i32.add(target, lane));
  for (let run = 0; run < format.block / format.run; run++) {
    const value = loadBits(row, stored.runScale!(run));
    f.i32Store8(place, stored.runBias ? i32.add(value, stored.runBias) : value, offsets.scales + run * GROUP);
  }
  if (!stored.runMinimum) return;
  place.inc(lane);
  for (let run = 0; run < format.block / format.run; run++) {
    const at = offsets.minima + (run >> 1) * 2 * GROUP + (run & 1);
    f.i32Store8(place, loadBits(row, stored.runMinimum(run)), at);
  }
}

/** A binary16 number (16 bits in a word) as a float: exact, subnormal ones included. */
function halfToFloat(bits: Local<'i32'>) {
  const magnitude = i32.shl(i32.and(bits, 0x7fff), 13);
  const sign = i32.shl(i32.and(bits, HALF_SIGN), 16);
  // Infinities and NaN keep all of their exponent bits.
  const value = f32.select(
    i32.ltU(i32.and(bits, 0x7fff), 0x7c00),
    f32.mul(f32.reinterpretI32(magnitude), 2 ** 112),
    f32.reinterpretI32(i32.or(magnitude, 0x7f800000)),
  );
  return f32.reinterpretI32(i32.or(i32.reinterpretF32(value), sign));
}

function loadBits(row: Local<'i32'>, fields: readonly StoredBits[]): I32 {
  return fields
    .map((b): I32 => {
      const byte = i32.load8U(row, b.at);
      const low = i32.and(b.from ? i32.shrU(byte, b.from) : byte, (1 << b.bits) - 1);
      return b.to ? i32.shl(low, b.to) : low;
    })
    .reduce((a, b) => i32.or(a, b));
}

/** Codes of the rows of one quad; `row` ends at the next one, `quad` counts them. */
function repackCodes(
  f: FunctionBuilder,
  stored: StoredFormat,
  row: Local<'i32'>,
  rowBytes: Local<'i32'>,
  target: Local<'i32'>,
  quad: Local<'i32'>,
): void {
  const { format } = stored;
  const offsets = codeOffsets(format);
  const rows = Array.from({ length: 4 }, (_, i) => f.i32(`row${i}`, row));
  rows.forEach((r, i) => {
    if (i) r.set(i32.add(rows[i - 1]!, rowBytes));
  });
  row.set(i32.add(rows[3]!, rowBytes));
  const place = f.i32('codesOfQuad', i32.add(target, i32.shl(quad, format.bits === 8 ? 3 : 4)));
  const codes = f.v128s('code', 4);
  const chunks = [f.v128s('low', 4), f.v128s('high', 4)] as const;
  for (let pair = 0; pair < format.block / PAIR; pair++) {
    for (const [half, steps] of chunks.entries()) {
      rows.forEach((r, i) => {
        codes[i]!.set(loadCodes(f, r, stored.codes(2 * pair + half)));
      });
      transpose(f, codes, steps);
    }
    const [low, high] = chunks;
    const inOrder = format.inputs !== 256 ? low.flatMap((v, i) => [v, high[i]!]) : [...low, ...high];
    storePair(f, format, inOrder, place, offsets.codes + pair * offsets.pair);
  }
}

/** The codes of 16 columns of one row. */
function loadCodes(f: FunctionBuilder, row: Local<'i32'>, fields: readonly StoredBits[]): V128 {
  return fields
    .map((b): V128 => {
      const raw = v128.load(row, b.at);
      if (b.bits === 8) return raw;
      const left = b.to - b.from;
      const moved = left > 0 ? i16x8.shl(raw, left) : left < 0 ? i16x8.shrU(raw, -left) : raw;
      return v128.and(moved, f.pooled.i8x16(((1 << b.bits) - 1) << b.to));
    })
    .reduce((a, b) => v128.or(a, b));
}

/** Word `i` of each of four vectors becomes vector `i`. */
function transpose(f: FunctionBuilder, rows: readonly Local<'v128'>[], words: readonly Local<'v128'>[]): void {
  const [a, b, c, d] = rows as [Local<'v128'>, Local<'v128'>, Local<'v128'>, Local<'v128'>];
  const low = [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23];
  const firstHalves = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
  const [ab, cd] = [f.v128('ab'), f.v128('cd')];
  for (const [i, order] of [low, low.map((lane) => lane + 8)].entries()) {
    ab.set(i8x16.shuffle(a, b, order));
    cd.set(i8x16.shuffle(c, d, order));
    words[2 * i]!.set(i8x16.shuffle(ab, cd, firstHalves));
    words[2 * i + 1]!.set(
      i8x16.shuffle(
        ab,
        cd,
        firstHalves.map((lane) => lane + 8),
      ),
    );
  }
}

function readBits(m: Views, fields: readonly StoredBits[], at: number): number {
  return fields.reduce((code, b) => code | (((m.u8[at + b.at]! >> b.from) & ((1 << b.bits) - 1)) << b.to), 0);
}

function repackScalesTwin(m: Views, stored: StoredFormat, at: number, block: number, row: number): void {
  const { format, scale, second } = stored;
  const offsets = codeOffsets(format);
  const word = (i: number) => m.u8[at + i]! | (m.u8[at + i + 1]! << 8);
  const put = (from: number, to: number, sign: number) => {
    const place = block + to;
    if (scale.kind === 'f32') m.u32[(place >>> 2) + row] = word(from) | (word(from + 2) << 16);
    else if (format.scale === 'f32') m.f32[(place >>> 2) + row] = sign * f16ToF32(word(from));
    else {
      const e = m.u8[at + from]!;
      const power = e > 1 ? (e - 1) << 7 : 0x20 << e;
      m.u16[(place >>> 1) + row] = scale.kind === 'e8m0' ? power : word(from);
    }
  };
  put(scale.at, 0, 1);
  if (second !== undefined) put(second, offsets.second, format.minimum ? -1 : 1);
  for (let run = 0; format.run && run < format.block / format.run; run++) {
    const value = readBits(m, stored.runScale!(run), at) + (stored.runBias ?? 0);
    m.u8[block + offsets.scales + run * GROUP + row] = value;
    if (!stored.runMinimum) continue;
    m.u8[block + offsets.minima + (run >> 1) * 2 * GROUP + row * 2 + (run & 1)] = readBits(
      m,
      stored.runMinimum(run),
      at,
    );
  }
}
