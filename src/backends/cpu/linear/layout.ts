/**
 * How quantized matrices and activations lie in memory.
 *
 * **Weights.** Rows are grouped by 8 (two quads of 4), the last group padded with zero rows. A group is one contiguous
 * stream of blocks of 32 columns, so that a thread reads its rows as one sequential run:
 *
 *     8 × f16 scale | 8 × f16 minimum (…_1) | 2 × 16 bytes of fifth bits (Q5) | 8 × 16 bytes of codes
 *
 * Codes of 4 bits: for each step 0–3 one vector per quad; byte `4 row + c` holds column `4 step + c` in its low nibble and
 * column `16 + 4 step + c` in the high one. Fifth bits: one vector per quad, same byte order, bit `2 step + half`.
 * Q8_0: for each step 4 pairs of columns in the order of `PAIRS`, for each pair 8 bytes per quad: `row0 a b, row1 a b, …`.
 *
 * **Activations.** Rows (tokens) are taken in tiles of 4 and a rest of 1–3; inside a tile of `n` tokens the layout is the
 * order in which the kernels read: block, step, part, token, 4 bytes.
 */

/** Columns of a block. */
export const BLOCK = 32;
/** Rows of a group: two vectors of four. */
export const GROUP = 8;
export const QUADS = 2;
/** Steps of a block: 8 columns each. */
export const STEPS = 4;
/** Tokens of a full tile. */
export const TILE = 4;

/** First column of the pairs `(c, c + 2)` that one step of 16-bit activations holds, relative to `4 step`. */
export const PAIRS = [0, 1, 16, 17] as const;

/** Bytes of a code: `i8` for dot products of bytes (relaxed SIMD), `i16` of 16-bit pairs (SIMD128, and 8-bit weights). */
export const ACTIVATION_BYTES = { i8: 1, i16: 2 } as const;

/** Groups of 8 that `rows` rows occupy. */
export function groupsOf(rows: number): number {
  return Math.ceil(rows / GROUP);
}

/**
 * Scales and sums of activations are stored times 2^96. Kernels widen the bits of a binary16 scale without correcting its
 * exponent, which divides it by 2^112; the product is then 2^-16 of the true one, far from under- and overflow, and the
 * finished sums are multiplied by 2^16. All of these factors are exact.
 */
export const ACTIVATION_SCALE = 2 ** 96;
export const HALF_SCALE = 2 ** -112;
export const RESULT_SCALE = 2 ** 16;
