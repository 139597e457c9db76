import { defineKernel, split, splitRange } from '../kernel.ts';
import type { I32, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i8x16, i32, v128 } from '../wasm/ops.ts';
import { type Block32, offsetsOf } from './block32.ts';
import { BLOCK, GROUP, PAIRS, QUADS } from './layout.ts';

export const REPACK_FIELDS = {
  /** Whole groups of rows as the checkpoint stores them; missing rows of the last group are zero bytes. */
  source: 'i32',
  target: 'i32',
  groups: 'i32',
  columns: 'i32',
} as const;

/** Byte positions inside one block of a row as stored in GGUF files. */
export interface Stored {
  readonly minimum: number;
  readonly fifthBits: number;
  readonly codes: number;
  readonly bytes: number;
}

export function storedOffsets(format: Block32): Stored {
  const minimum = 2;
  const fifthBits = format.minimum ? 4 : 2;
  const codes = fifthBits + (format.bits === 5 ? 4 : 0);
  return { minimum, fifthBits, codes, bytes: codes + (format.bits === 8 ? BLOCK : BLOCK / 2) };
}

/** From rows of blocks to interleaved groups of 8 rows (`layout.ts`). */
export function repackKernel(format: Block32) {
  const offsets = offsetsOf(format);
  const stored = storedOffsets(format);
  return defineKernel({
    name: `repack.${format.name}`,
    fields: REPACK_FIELDS,
    emit(f, { source, target, groups, columns }, ctx) {
      const { from, to } = split(f, groups, ctx);
      const blocks = f.i32('blocks', i32.shrU(columns, 5));
      const rowBytes = f.i32('rowBytes', i32.mul(blocks, stored.bytes));
      const group = f.i32('group');
      const end = f.i32('end');
      const rows = Array.from({ length: GROUP }, (_, r) => f.i32(`row${r}`));
      target.inc(i32.mul(from, i32.mul(blocks, offsets.bytes)));
      f.for(group, from, to, 1, () => {
        rows.forEach((row, r) => {
          row.set(r ? i32.add(rows[r - 1]!, rowBytes) : i32.add(source, i32.mul(group, i32.mul(rowBytes, GROUP))));
        });
        end.set(rows[1]!);
        f.while(i32.ltU(rows[0]!, end), () => {
          rows.forEach((row, r) => {
            f.i32Store16(target, i32.load16U(row), 2 * r);
            if (format.minimum) f.i32Store16(target, i32.load16U(row, stored.minimum), offsets.minimum + 2 * r);
            if (format.bits === 5) {
              f.i32Store(target, fifthBits(f, i32.load(row, stored.fifthBits)), offsets.fifthBits + 4 * r);
            }
          });
          for (let quad = 0; quad < QUADS; quad++) {
            const four = rows.slice(4 * quad, 4 * quad + 4);
            if (format.bits === 8) repackBytes(f, four, quad, target, stored.codes, offsets.codes);
            else repackNibbles(f, four, quad, target, stored.codes, offsets.codes);
          }
          for (const row of rows) row.inc(stored.bytes);
          target.inc(offsets.bytes);
        });
      });
    },
    twin(m, { source, target, groups, columns }, tid, nt) {
      const [from, to] = splitRange(groups, tid, nt);
      const blocks = columns / BLOCK;
      for (let group = from; group < to; group++) {
        for (let b = 0; b < blocks; b++) {
          const block = (target >>> 0) + (group * blocks + b) * offsets.bytes;
          m.u8.fill(0, block, block + offsets.bytes);
          for (let r = 0; r < GROUP; r++) {
            const at = (source >>> 0) + ((group * GROUP + r) * blocks + b) * stored.bytes;
            const byte = (i: number) => m.u8[at + i]!;
            m.u16[(block >>> 1) + r] = byte(0) | (byte(1) << 8);
            if (format.minimum) {
              m.u16[((block + offsets.minimum) >>> 1) + r] = byte(stored.minimum) | (byte(stored.minimum + 1) << 8);
            }
            for (let k = 0; k < BLOCK; k++) {
              const [slot, shift] = slotOf(format, r, k);
              const code = byte(stored.codes + (format.bits === 8 ? k : k & 15));
              if (format.bits === 8) m.u8[block + slot] = code;
              else m.u8[block + slot]! |= ((code >> (k & 16 ? 4 : 0)) & 15) << shift;
              if (format.bits === 5) {
                const bit = (byte(stored.fifthBits + (k >> 3)) >> (k & 7)) & 1;
                const place = block + offsets.fifthBits + 4 * r + (k & 3);
                m.u8[place]! |= bit << (2 * ((k & 15) >> 2) + (k >> 4));
              }
            }
          }
        }
      }
    },
  });
}

/** Byte and bit of a code inside a block. */
function slotOf(format: Block32, row: number, k: number): readonly [byte: number, shift: number] {
  const offsets = offsetsOf(format);
  const half = k >> 4;
  const step = offsets.codes + ((k & 15) >> 2) * offsets.step;
  const quad = row >> 2;
  if (format.bits === 8) {
    const part = half * 2 + (k & 1);
    return [step + (part * QUADS + quad) * GROUP + (row & 3) * 2 + ((k & 2) >> 1), 0];
  }
  return [step + quad * 16 + (row & 3) * 4 + (k & 3), 4 * half];
}

/** A transposition of 32-bit words: word `step` of four rows becomes the vector of that step. */
function repackNibbles(
  f: FunctionBuilder,
  rows: readonly Local<'i32'>[],
  quad: number,
  target: Local<'i32'>,
  from: number,
  to: number,
): void {
  const [a, b, c, d] = rows.map((row, i) => f.v128(`codes${i}`, v128.load(row, from))) as unknown as Quad;
  const low = (x: V128, y: V128) => i8x16.shuffle(x, y, [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23]);
  const high = (x: V128, y: V128) =>
    i8x16.shuffle(x, y, [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31]);
  for (const [half, pair] of [low, high].entries()) {
    const ab = f.v128('ab', pair(a, b));
    const cd = f.v128('cd', pair(c, d));
    const step = to + (2 * half * QUADS + quad) * 16;
    f.v128Store(target, i8x16.shuffle(ab, cd, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]), step);
    f.v128Store(
      target,
      i8x16.shuffle(ab, cd, [8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31]),
      step + QUADS * 16,
    );
  }
}
type Quad = readonly [Local<'v128'>, Local<'v128'>, Local<'v128'>, Local<'v128'>];

/** A transposition of 16-bit pairs `(k, k + 2)`. */
function repackBytes(
  f: FunctionBuilder,
  rows: readonly Local<'i32'>[],
  quad: number,
  target: Local<'i32'>,
  from: number,
  to: number,
): void {
  for (let half = 0; half < 2; half++) {
    // Word 2 step + (part & 1) of each row is the pair of that part.
    const order = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];
    const [a, b, c, d] = rows.map((row, i) => {
      const bytes = f.v128(`bytes${i}`, v128.load(row, from + 16 * half));
      bytes.set(i8x16.shuffle(bytes, bytes, order));
      return bytes;
    }) as unknown as Quad;
    const low = [0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23];
    const high = low.map((i) => i + 8);
    for (const [upper, words] of [low, high].entries()) {
      const ab = f.v128('ab', i8x16.shuffle(a, b, words));
      const cd = f.v128('cd', i8x16.shuffle(c, d, words));
      const pairs = [
        f.v128('pairs01', i8x16.shuffle(ab, cd, [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23])),
        f.v128('pairs23', i8x16.shuffle(ab, cd, [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31])),
      ];
      for (let word = 0; word < 4; word++) {
        const step = 2 * upper + (word >> 1);
        const part = 2 * half + (word & 1);
        const at = to + ((step * PAIRS.length + part) * QUADS + quad) * GROUP;
        f.v128StoreLane(64, target, pairs[word >> 1]!, word & 1, at);
      }
    }
  }
}

/** The 32 fifth bits of a row's block (bit `k` belongs to column `k`) in our order, 4 bytes. */
function fifthBits(f: FunctionBuilder, bits: I32): Local<'i32'> {
  const stored = f.i32('stored', bits);
  const result = f.i32('result', 0);
  const byte = f.i32('byte');
  for (let c = 0; c < 4; c++) {
    // Bits 4 step (low half) and 16 + 4 step (high half) come together, then the gaps close.
    byte.set(i32.and(i32.shrU(stored, c), 0x11111111));
    byte.set(i32.and(i32.or(byte, i32.shrU(byte, 15)), 0x3333));
    byte.set(i32.and(i32.or(byte, i32.shrU(byte, 2)), 0x0f0f));
    byte.set(i32.and(i32.or(byte, i32.shrU(byte, 4)), 0xff));
    result.set(i32.or(result, i32.shl(byte, 8 * c)));
  }
  return result;
}
