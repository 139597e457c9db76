import type { StorageTypeName } from '../../../core/dtype.ts';
import { f16ToF32 } from '../../../core/dtype.ts';
import { iq1Book, iq2sBook, iq2xsBook, iq2xxsBook, iq3sBook, iq3xxsBook } from '../../../quant/books.ts';
import { half, i32, u16 } from '../../../quant/format.ts';
import { evenSigns } from '../../../quant/signs.ts';
import { CODE_FORMATS, type CodeFormat } from './kquant.ts';

/** How a block of 256 columns of a type becomes scales and codes of a layout. */
export interface BlockParts {
  readonly format: CodeFormat;
  scale(bytes: Uint8Array, at: number): number;
  /** The integer scale of a run. */
  runScale?(bytes: Uint8Array, at: number, run: number): number;
  /** The codes of the block, four to a word, the first in the lowest byte. */
  codes(bytes: Uint8Array, at: number, words: Uint32Array): void;
}

// The layouts of the blocks are described in src/quant. A vector of a code book becomes words of codes, and signs are bits
// that all of its codes have in the same place.

/** The entries of a book as codes, four to a word: the places of their values among `values`. */
function bookWords(book: Int8Array, values: readonly number[]): Uint32Array {
  const codes = Uint8Array.from(book, (value) => values.indexOf(value));
  return new Uint32Array(codes.buffer);
}

/** For four signs, their bits `bit` of four codes. */
function signWords(bit: number): Uint32Array {
  const spread = (signs: number) => [0, 1, 2, 3].reduce((word, i) => word | (((signs >> i) & 1) << (8 * i + bit)), 0);
  return Uint32Array.from({ length: 16 }, (_, signs) => spread(signs));
}

const nibble = (bytes: Uint8Array, at: number, i: number): number => (bytes[at + (i >> 1)]! >> ((i & 1) * 4)) & 15;
const odd = (code: number): number => 2 * code + 1;

const { table: IQ2_VALUES } = CODE_FORMATS.IQ2_S;
const IQ2_SIGNS = /* @__PURE__ */ signWords(2);
const IQ3_SIGNS = /* @__PURE__ */ signWords(3);
const IQ1_SHIFT = 0x04040404;

/** Vectors of eight: entry and signs of vector `i`. */
function iq2(
  format: CodeFormat,
  book: Int8Array,
  entry: (bytes: Uint8Array, at: number, i: number) => number,
  signs: (bytes: Uint8Array, at: number, i: number) => number,
  runScale: BlockParts['runScale'] & {},
): BlockParts {
  const vectors = bookWords(book, IQ2_VALUES);
  return {
    format,
    scale: (bytes, at) => half(bytes, at) / 8,
    runScale,
    codes(bytes, at, words) {
      for (let i = 0; i < 32; i++) {
        const e = 2 * entry(bytes, at, i);
        const s = signs(bytes, at, i);
        words[2 * i] = vectors[e]! | IQ2_SIGNS[s & 15]!;
        words[2 * i + 1] = vectors[e + 1]! | IQ2_SIGNS[s >> 4]!;
      }
    },
  };
}

/** Vectors of four: entry of vector `i`, signs of vectors 2 `i` and 2 `i` + 1. */
function iq3(
  format: CodeFormat,
  fraction: number,
  book: Int8Array,
  entry: (bytes: Uint8Array, at: number, i: number) => number,
  signs: (bytes: Uint8Array, at: number, i: number) => number,
  runScale: BlockParts['runScale'] & {},
): BlockParts {
  const vectors = bookWords(book, format.table!);
  return {
    format,
    scale: (bytes, at) => half(bytes, at) / fraction,
    runScale,
    codes(bytes, at, words) {
      for (let i = 0; i < 32; i++) {
        const s = signs(bytes, at, i);
        words[2 * i] = vectors[entry(bytes, at, 2 * i)]! | IQ3_SIGNS[s & 15]!;
        words[2 * i + 1] = vectors[entry(bytes, at, 2 * i + 1)]! | IQ3_SIGNS[s >> 4]!;
      }
    },
  };
}

/** Vectors of eight, whose values are all shifted up or down by an eighth. */
function iq1(
  format: CodeFormat,
  scale: BlockParts['scale'],
  entry: (bytes: Uint8Array, at: number, i: number) => number,
  shiftsDown: (bytes: Uint8Array, at: number, i: number) => number,
  runScale: BlockParts['runScale'] & {},
): BlockParts {
  const vectors = bookWords(iq1Book(), [-1, 0, 1]);
  return {
    format,
    scale: (bytes, at) => scale(bytes, at) / 8,
    runScale,
    codes(bytes, at, words) {
      for (let i = 0; i < 32; i++) {
        const e = 2 * entry(bytes, at, i);
        const shift = shiftsDown(bytes, at, i) ? IQ1_SHIFT : 0;
        words[2 * i] = vectors[e]! | shift;
        words[2 * i + 1] = vectors[e + 1]! | shift;
      }
    },
  };
}

const sevenSigns = (bytes: Uint8Array, word: number, i: number): number =>
  evenSigns((i32(bytes, word) >>> (7 * (i & 3))) & 127);

export const GRID_TYPES: Partial<Record<StorageTypeName, () => BlockParts>> = {
  IQ2_XXS: () =>
    iq2(
      CODE_FORMATS.IQ2_XXS,
      iq2xxsBook(),
      (b, at, i) => b[at + 2 + 8 * (i >> 2) + (i & 3)]!,
      (b, at, i) => sevenSigns(b, at + 6 + 8 * (i >> 2), i),
      (b, at, run) => odd(b[at + 9 + 8 * run]! >> 4),
    ),
  IQ2_XS: () =>
    iq2(
      CODE_FORMATS.IQ2_S,
      iq2xsBook(),
      (b, at, i) => u16(b, at + 2 + 2 * i) & 511,
      (b, at, i) => evenSigns(b[at + 3 + 2 * i]! >> 1),
      (b, at, run) => odd(nibble(b, at + 66, run)),
    ),
  IQ2_S: () =>
    iq2(
      CODE_FORMATS.IQ2_S,
      iq2sBook(),
      (b, at, i) => b[at + 2 + i]! | (((b[at + 66 + (i >> 2)]! >> (2 * (i & 3))) & 3) << 8),
      (b, at, i) => b[at + 34 + i]!,
      (b, at, run) => odd(nibble(b, at + 74, run)),
    ),
  IQ3_XXS: () =>
    iq3(
      CODE_FORMATS.IQ3_XXS,
      4,
      iq3xxsBook(),
      (b, at, i) => b[at + 2 + i]!,
      (b, at, i) => sevenSigns(b, at + 66 + 4 * (i >> 2), i),
      (b, at, run) => odd(b[at + 69 + 4 * run]! >> 4),
    ),
  IQ3_S: () =>
    iq3(
      CODE_FORMATS.IQ3_S,
      1,
      iq3sBook(),
      (b, at, i) => b[at + 2 + i]! | (((b[at + 66 + (i >> 3)]! >> (i & 7)) & 1) << 8),
      (b, at, i) => b[at + 74 + i]!,
      (b, at, run) => odd(nibble(b, at + 106, run)),
    ),
  IQ1_S: () =>
    iq1(
      CODE_FORMATS.IQ1_S,
      half,
      (b, at, i) => b[at + 2 + i]! | (((u16(b, at + 34 + 2 * (i >> 2)) >> (3 * (i & 3))) & 7) << 8),
      (b, at, i) => b[at + 35 + 2 * (i >> 2)]! & 0x80,
      (b, at, run) => odd((b[at + 35 + 2 * run]! >> 4) & 7),
    ),
  IQ1_M: () =>
    iq1(
      CODE_FORMATS.IQ1_M,
      (b, at) => f16ToF32([0, 1, 2, 3].reduce((bits, i) => bits | ((b[at + 49 + 2 * i]! >> 4) << (4 * i)), 0)),
      (b, at, i) => b[at + i]! | ((nibble(b, at + 32, i) & 7) << 8),
      (b, at, i) => nibble(b, at + 32, i) & 8,
      (b, at, run) => odd((u16(b, at + 48 + 2 * (run >> 2)) >> (3 * (run & 3))) & 7),
    ),
};
