import { f16ToF32, f32ToBf16, type StorageTypeName } from '../../../core/dtype.ts';
import { quantFormat } from '../../../quant/index.ts';
import { CODE_FORMATS, type CodeFormat } from './kquant.ts';
import { plainStored } from './kquantStored.ts';

/**
 * How the blocks of a type are taken apart into the scales and codes of a layout. The type's own decoder does most of the
 * work: applied to a block whose scales have been set to one, it gives the values that the codes stand for.
 */
interface Rewrite {
  readonly format: CodeFormat;
  /** Sets every scale of the block at `at` to one. */
  setUnit(bytes: Uint8Array, at: number): void;
  /** The scale of part `part` of a block (parts are as long as blocks of the layout, or halves of them). */
  scale(bytes: Uint8Array, at: number, part: number): number;
  /** The integer scale of a run. */
  runScale?(bytes: Uint8Array, at: number, run: number): number;
}

const half = (bytes: Uint8Array, at: number): number => f16ToF32(bytes[at]! | (bytes[at + 1]! << 8));
const setHalf = (bytes: Uint8Array, at: number, bits: number): void => {
  bytes[at] = bits;
  bytes[at + 1] = bits >> 8;
};
const HALF = { 1: 0x3c00, 4: 0x4400, 8: 0x4800 } as const;
const nibble = (bytes: Uint8Array, at: number, i: number): number => (bytes[at + (i >> 1)]! >> ((i & 1) * 4)) & 15;
const odd = (code: number): number => 2 * code + 1;

/** The IQ types multiply with an odd number over 8 or 4: the fraction goes into the scale. */
function iq(
  format: CodeFormat,
  fraction: 1 | 4 | 8,
  clear: (bytes: Uint8Array, at: number) => void,
  code: (bytes: Uint8Array, at: number, run: number) => number,
): Rewrite {
  return {
    format,
    setUnit(bytes, at) {
      setHalf(bytes, at, HALF[fraction]);
      clear(bytes, at);
    },
    scale: (bytes, at) => half(bytes, at) / fraction,
    runScale: (bytes, at, run) => odd(code(bytes, at, run)),
  };
}

/** Scales in the top nibbles of eight words, 4 or 8 bytes apart. */
const inWords = (format: CodeFormat, fraction: 4 | 8, first: number, stride: number) =>
  iq(
    format,
    fraction,
    (bytes, at) => {
      for (let run = 0; run < 8; run++) bytes[at + first + run * stride]! &= 15;
    },
    (bytes, at, run) => bytes[at + first + run * stride]! >> 4,
  );
/** Scales in nibbles from byte `first` to the end of the block. */
const inNibbles = (format: CodeFormat, fraction: 1 | 8, first: number, count: number) =>
  iq(
    format,
    fraction,
    (bytes, at) => bytes.fill(0, at + first, at + first + count),
    (bytes, at, run) => nibble(bytes, at + first, run),
  );

const IQ1_M_SCALES = 48;

const REWRITES: Partial<Record<StorageTypeName, Rewrite>> = {
  IQ2_XXS: inWords(CODE_FORMATS.IQ2_XXS, 8, 9, 8),
  IQ3_XXS: inWords(CODE_FORMATS.IQ3_XXS, 4, 69, 4),
  IQ2_XS: inNibbles(CODE_FORMATS.IQ2_S, 8, 66, 8),
  IQ2_S: inNibbles(CODE_FORMATS.IQ2_S, 8, 74, 8),
  IQ3_S: inNibbles(CODE_FORMATS.IQ3_S, 1, 106, 4),
  IQ1_S: iq(
    CODE_FORMATS.IQ1_S,
    8,
    (bytes, at) => {
      for (let run = 0; run < 8; run++) bytes[at + 35 + 2 * run]! &= 0x8f;
    },
    (bytes, at, run) => (bytes[at + 35 + 2 * run]! >> 4) & 7,
  ),
  IQ1_M: {
    format: CODE_FORMATS.IQ1_M,
    setUnit(bytes, at) {
      // The top nibbles of the four words are the binary16 number 8, the lowest nibble first.
      for (let i = 0; i < 4; i++) setHalf(bytes, at + IQ1_M_SCALES + 2 * i, ((HALF[8] >> (4 * i)) & 15) << 12);
    },
    scale(bytes, at) {
      let bits = 0;
      for (let i = 0; i < 4; i++) bits |= (bytes[at + IQ1_M_SCALES + 2 * i + 1]! >> 4) << (4 * i);
      return f16ToF32(bits) / 8;
    },
    runScale(bytes, at, run) {
      const word = at + IQ1_M_SCALES + 2 * (run >> 2);
      return odd(((bytes[word]! | (bytes[word + 1]! << 8)) >> (3 * (run & 3))) & 7);
    },
  },
  TQ1_0: {
    format: CODE_FORMATS.TQ2_0,
    setUnit: (bytes, at) => setHalf(bytes, at + 52, HALF[1]),
    scale: (bytes, at) => half(bytes, at + 52),
  },
  Q8_K: {
    format: CODE_FORMATS.Q8_K,
    setUnit: (bytes, at) => new DataView(bytes.buffer, bytes.byteOffset).setFloat32(at, 1, true),
    scale: (bytes, at) => new DataView(bytes.buffer, bytes.byteOffset).getFloat32(at, true),
  },
  Q1_0: {
    format: CODE_FORMATS.Q1_0,
    setUnit: (bytes, at) => setHalf(bytes, at, HALF[1]),
    scale: (bytes, at) => half(bytes, at),
  },
  NVFP4: {
    format: CODE_FORMATS.NVFP4,
    // The e4m3 number 2: the format halves its scales.
    setUnit: (bytes, at) => bytes.fill(0x40, at, at + 4),
    scale: (bytes, at, part) => e4m3Half(bytes[at + part]!),
  },
};

/** Half of an unsigned e4m3 scale as NVFP4 reads it: 127 counts as zero, the top bit as nothing. */
function e4m3Half(code: number): number {
  return code === 127 ? 0 : f16ToF32((code & 127) << 7) * 2 ** 7;
}

/** Rewrites rows of a type into the form that the repacking kernel of its layout reads (`plainStored`). */
export interface RowRewriter {
  readonly format: CodeFormat;
  /** Bytes of `columns` columns when rewritten. */
  rowBytes(columns: number): number;
  /** `source` holds whole rows, `target` has room for as many. */
  rewrite(source: Uint8Array, target: Uint8Array): void;
}

export function rowRewriter(name: StorageTypeName): RowRewriter | undefined {
  const how = REWRITES[name];
  if (!how) return undefined;
  const { format } = how;
  const { type, unpack } = quantFormat(name);
  const stored = plainStored(format);
  const block = new Uint8Array(type.blockBytes);
  const values = new Float32Array(type.blockSize);
  const codes = codesOf(format);
  const perBlock = type.blockSize / format.block;
  const scales = format.scalePerHalf ? 2 : 1;
  const runs = format.run ? format.block / format.run : 0;
  const firstCode = stored.bytes - format.block;
  return {
    format,
    rowBytes: (columns) => (columns / format.block) * stored.bytes,
    rewrite(source, target) {
      const out = new DataView(target.buffer, target.byteOffset, target.byteLength);
      for (let at = 0, to = 0; at < source.length; at += type.blockBytes) {
        block.set(source.subarray(at, at + type.blockBytes));
        how.setUnit(block, 0);
        unpack(block, 0, values, 0, 1);
        for (let part = 0; part < perBlock; part++, to += stored.bytes) {
          for (let i = 0; i < scales; i++) {
            const scale = how.scale(source, at, part * scales + i);
            if (format.scale === 'f32') out.setFloat32(to, scale, true);
            else if (format.scale === 'bf16') out.setUint16(to + 2 * i, f32ToBf16(scale), true);
            else out.setUint16(to, source[at]! | (source[at + 1]! << 8), true);
          }
          for (let run = 0; run < runs; run++) target[to + firstCode - runs + run] = how.runScale!(source, at, run);
          for (let k = 0; k < format.block; k++) {
            target[to + firstCode + k] = codes[values[part * format.block + k]! + CODES_MIDDLE]!;
          }
        }
      }
    },
  };
}

/** Values of codes are at least −128 and at most 127. */
const CODES_MIDDLE = 128;

/** The code of each value from −128 on. */
function codesOf(format: CodeFormat): Uint8Array {
  const codes = new Uint8Array(256);
  if (format.bits === 8) return codes.map((_, i) => i - CODES_MIDDLE);
  const values = format.table ?? Array.from({ length: 2 ** format.bits }, (_, code) => code - (format.offset ?? 0));
  // The first of equal values: zero without a sign.
  for (let code = values.length - 1; code >= 0; code--) codes[values[code]! + CODES_MIDDLE] = code;
  return codes;
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
