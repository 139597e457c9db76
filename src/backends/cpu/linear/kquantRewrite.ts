import { f16ToF32, f32ToBf16, type StorageTypeName, storageType } from '../../../core/dtype.ts';
import { half } from '../../../quant/format.ts';
import { CODE_FORMATS, type CodeFormat } from './kquant.ts';
import { type BlockParts, GRID_TYPES } from './kquantGrids.ts';
import { plainStored } from './kquantStored.ts';

/** Rewrites rows of a type into the form that the repacking kernel of its layout reads (`plainStored`). */
export interface RowRewriter {
  readonly format: CodeFormat;
  /** `source` holds whole rows, `target` has room for as many. */
  rewrite(source: Uint8Array, target: Uint8Array): void;
}

const SUPER_BLOCK = 256;

function superBlocks(name: StorageTypeName, parts: BlockParts): RowRewriter {
  const { format } = parts;
  const { blockBytes } = storageType(name);
  const stored = plainStored(format).bytes;
  const runs = format.run ? SUPER_BLOCK / format.run : 0;
  const firstCode = stored - SUPER_BLOCK;
  const words = new Uint32Array(SUPER_BLOCK / 4);
  const codes = new Uint8Array(words.buffer);
  return {
    format,
    rewrite(source, target) {
      const out = new DataView(target.buffer, target.byteOffset, target.byteLength);
      for (let at = 0, to = 0; at < source.length; at += blockBytes, to += stored) {
        out.setFloat32(to, parts.scale(source, at), true);
        const scales = to + firstCode - runs;
        for (let run = 0; run < runs; run++) target[scales + run] = parts.runScale!(source, at, run);
        parts.codes(source, at, words);
        target.set(codes, to + firstCode);
      }
    },
  };
}

const TQ1_0_SCALE = 52;
/** Runs of bytes with base-3 digits: first byte, bytes, digits in each; the first digits of all bytes come first. */
const TQ1_0_RUNS = [
  [0, 32, 5],
  [32, 16, 5],
  [48, 4, 4],
] as const;

/** TQ1_0: the digits of a byte come out one by one as the integer part of the byte, read as a fraction, times 3. */
function tq1_0(): BlockParts {
  const digits = Uint8Array.from({ length: 5 * 256 }, (_, i) => ((((i & 255) * 3 ** (i >> 8)) & 255) * 3) >> 8);
  // For each word of codes the first of its four bytes, and where their digits begin.
  const words = TQ1_0_RUNS.flatMap(([first, count, perByte]) =>
    Array.from({ length: (perByte * count) / 4 }, (_, i) => {
      const column = 4 * i;
      return { from: first + (column % count), digit: Math.floor(column / count) * 256 };
    }),
  );
  const from = Uint8Array.from(words, (w) => w.from);
  const digit = Uint16Array.from(words, (w) => w.digit);
  return {
    format: CODE_FORMATS.TQ2_0,
    scale: (bytes, at) => half(bytes, at + TQ1_0_SCALE),
    codes(bytes, at, out) {
      for (let i = 0; i < out.length; i++) {
        const m = at + from[i]!;
        const n = digit[i]!;
        const low = digits[n + bytes[m]!]! | (digits[n + bytes[m + 1]!]! << 8);
        out[i] = low | (digits[n + bytes[m + 2]!]! << 16) | (digits[n + bytes[m + 3]!]! << 24);
      }
    },
  };
}

const FLOAT_BYTES = 4;

/** Q8_K: the codes are there already. */
function q8_k(): RowRewriter {
  const { blockBytes } = storageType('Q8_K');
  const stored = FLOAT_BYTES + SUPER_BLOCK;
  return {
    format: CODE_FORMATS.Q8_K,
    rewrite(source, target) {
      for (let at = 0, to = 0; at < source.length; at += blockBytes, to += stored) {
        target.set(source.subarray(at, at + stored), to);
      }
    },
  };
}

/** Q1_0: 128 columns become four blocks with the same scale. */
function q1_0(): RowRewriter {
  const { blockBytes } = storageType('Q1_0');
  return {
    format: CODE_FORMATS.Q1_0,
    rewrite(source, target) {
      let to = 0;
      for (let at = 0; at < source.length; at += blockBytes) {
        for (let bits = at + 2; bits < at + blockBytes; bits++) {
          if ((bits - at - 2) % 4 === 0) {
            target[to++] = source[at]!;
            target[to++] = source[at + 1]!;
          }
          const byte = source[bits]!;
          for (let i = 0; i < 8; i++) target[to++] = (byte >> i) & 1;
        }
      }
    },
  };
}

/** Half of an unsigned e4m3 scale as NVFP4 reads it: 127 counts as zero, the top bit as nothing. */
function e4m3Half(code: number): number {
  // As a binary16 number it has an exponent 8 too small.
  return code === 127 ? 0 : f16ToF32((code & 127) << 7) * 2 ** 7;
}

/** NVFP4: 64 columns become two blocks; 8 bytes hold 16 columns, the first 8 in their low halves. */
function nvfp4(): RowRewriter {
  const { blockBytes } = storageType('NVFP4');
  const scales = Uint16Array.from({ length: 256 }, (_, code) => f32ToBf16(e4m3Half(code)));
  return {
    format: CODE_FORMATS.NVFP4,
    rewrite(source, target) {
      let to = 0;
      for (let at = 0; at < source.length; at += blockBytes) {
        for (let group = 0; group < 4; group++) {
          if (group % 2 === 0) {
            for (const code of [source[at + group]!, source[at + group + 1]!]) {
              target[to++] = scales[code]!;
              target[to++] = scales[code]! >> 8;
            }
          }
          const first = at + 4 + 8 * group;
          for (let j = 0; j < 8; j++) {
            const pair = source[first + j]!;
            target[to + j] = pair & 15;
            target[to + 8 + j] = pair >> 4;
          }
          to += 16;
        }
      }
    },
  };
}

const REWRITERS: Partial<Record<StorageTypeName, () => RowRewriter>> = {
  TQ1_0: () => superBlocks('TQ1_0', tq1_0()),
  Q8_K: q8_k,
  Q1_0: q1_0,
  NVFP4: nvfp4,
};

/** The rewriter of a type that has one. */
export function rowRewriter(name: StorageTypeName): RowRewriter | undefined {
  const parts = GRID_TYPES[name]?.();
  return parts ? superBlocks(name, parts) : REWRITERS[name]?.();
}

const Q8_0_BYTES = 34;
const Q8_1_BYTES = 36;

/** Q8_1 rows without the sums of their blocks are Q8_0 rows. */
export function q8_1ToQ8_0(source: Uint8Array, target: Uint8Array): void {
  for (let at = 0, to = 0; at < source.length; at += Q8_1_BYTES, to += Q8_0_BYTES) {
    target[to] = source[at]!;
    target[to + 1] = source[at + 1]!;
    target.set(source.subarray(at + 4, at + Q8_1_BYTES), to + 2);
  }
}
