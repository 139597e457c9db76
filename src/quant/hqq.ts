import type { TensorFormat } from './format.ts';
import { clamp, roundAway } from './search.ts';

/**
 * Half-quadratic quantization along axis 0 with groups of 64: the matrix, row after row, is cut into 64 slices of equal
 * length, and element `i` of all slices is a group (which therefore runs across rows). Stored are the codes, one f32 scale
 * per group and one f32 zero per group; an element is `(q − zero) · scale`. The zero is refined by proximal steps that
 * make the error sparse (norm of power 0.7), the scale is that of the range.
 */

const f = Math.fround;
const GROUP = 64;
const STEPS = 20;
const POWER = f(0.7 - 1);
const FIRST_BETA = 10;
const KAPPA = 1.01;
const MAX_SCALE = f(2e4);
/** Zeros must stay finite. */
const LARGEST = 1e30;

/** Where codes lie: `slice` 0…63, `column` one of as many as a slice is long. */
interface Packing {
  /** Bytes of the codes of one group. */
  readonly bytes: number;
  put(out: Uint8Array, columns: number, slice: number, column: number, code: number): void;
  get(bytes: Uint8Array, columns: number, slice: number, column: number): number;
}

/** Slices are taken in as many runs as a byte holds codes; the first run has the highest bits. */
function bytePacking(bits: 1 | 2 | 4 | 8): Packing {
  const run = (GROUP * bits) / 8;
  const at = (columns: number, slice: number, column: number) => (slice % run) * columns + column;
  const shift = (slice: number) => 8 - bits * (Math.floor(slice / run) + 1);
  return {
    bytes: run,
    put(out, columns, slice, column, code) {
      out[at(columns, slice, column)]! |= code << shift(slice);
    },
    get: (bytes, columns, slice, column) => (bytes[at(columns, slice, column)]! >> shift(slice)) & ((1 << bits) - 1),
  };
}

/** Ten 3-bit codes in a 32-bit word, as if there were 70 slices. */
const WORD_RUN = 7;
function byteOf3(columns: number, slice: number, column: number): readonly [at: number, shift: number] {
  return [4 * ((slice % WORD_RUN) * columns + column), 27 - 3 * Math.floor(slice / WORD_RUN)];
}
const wordPacking: Packing = {
  bytes: 4 * WORD_RUN,
  put(out, columns, slice, column, code) {
    const [at, shift] = byteOf3(columns, slice, column);
    for (let byte = 0; byte < 4; byte++) out[at + byte]! |= (code << shift) >>> (8 * byte);
  },
  get(bytes, columns, slice, column) {
    const [at, shift] = byteOf3(columns, slice, column);
    const word = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
    return (word >>> shift) & 7;
  },
};

function hqq(bits: 1 | 2 | 3 | 4 | 8): TensorFormat {
  const packing = bits === 3 ? wordPacking : bytePacking(bits);
  const perGroup = packing.bytes + 8;
  const groupsOf = (elements: number) => elements / GROUP;
  return {
    name: `HQQ${bits}`,
    multiple: GROUP,
    largest: LARGEST,
    bytes: (rows, columns) => groupsOf(rows * columns) * perGroup,
    pack(x, _columns, out) {
      const groups = groupsOf(x.length);
      const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
      const { scales, zeros } = solve(x, groups, 2 ** bits - 1);
      const ofScales = packing.bytes * groups;
      for (let c = 0; c < groups; c++) {
        const scale = scales[c]!;
        view.setFloat32(ofScales + 4 * c, f(1 / scale), true);
        view.setFloat32(ofScales + 4 * (groups + c), zeros[c]!, true);
        for (let slice = 0; slice < GROUP; slice++) {
          const code = codeOf(x[slice * groups + c]!, scale, zeros[c]!, 2 ** bits - 1);
          packing.put(out, groups, slice, c, code);
        }
      }
    },
    unpack(bytes, rows, columns, out) {
      const groups = groupsOf(rows * columns);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const ofScales = packing.bytes * groups;
      for (let c = 0; c < groups; c++) {
        const scale = view.getFloat32(ofScales + 4 * c, true);
        const zero = view.getFloat32(ofScales + 4 * (groups + c), true);
        for (let slice = 0; slice < GROUP; slice++) {
          out[slice * groups + c] = f(packing.get(bytes, groups, slice, c) - zero) * scale;
        }
      }
    },
  };
}

export const hqqFormats: readonly TensorFormat[] = ([8, 4, 3, 2, 1] as const).map(hqq);

function codeOf(x: number, scale: number, zero: number, levels: number): number {
  return clamp(roundAway(f(f(x * scale) + zero)), 0, levels);
}

/** Scales by which elements are multiplied, and zeros, of all groups. */
function solve(x: Float32Array, groups: number, levels: number): { scales: Float32Array; zeros: Float32Array } {
  const scales = new Float32Array(groups);
  const zeros = new Float32Array(groups);
  for (let c = 0; c < groups; c++) {
    let low = x[c]!;
    let high = low;
    for (let i = c; i < x.length; i += groups) {
      low = Math.min(low, x[i]!);
      high = Math.max(high, x[i]!);
    }
    scales[c] = Math.min(MAX_SCALE, f(levels / f(high - low)));
    zeros[c] = f(-low * scales[c]!);
  }
  let best = Number.POSITIVE_INFINITY;
  for (let step = 0, beta = FIRST_BETA; step < STEPS; step++, beta *= KAPPA) {
    const shrink = f(1 / beta);
    let error = 0;
    for (let c = 0; c < groups; c++) {
      const scale = scales[c]!;
      const zero = zeros[c]!;
      let sum = 0;
      for (let i = c; i < x.length; i += groups) {
        const code = codeOf(x[i]!, scale, zero, levels);
        const e = f(x[i]! - f(f(code - zero) / scale));
        const size = Math.abs(e);
        error += size;
        const left = size > 0 ? Math.max(0, f(size - f(shrink * f(size ** POWER)))) : 0;
        const kept = e < 0 ? -left : left;
        sum = f(sum + f(code - f(f(x[i]! - kept) * scale)));
      }
      zeros[c] = f(sum / GROUP);
    }
    const mean = f(error / x.length);
    if (mean >= best) break;
    best = mean;
  }
  return { scales, zeros };
}
