/** MXFP4 weights of safetensors files, which keep codes and scales in two tensors. */
import { storageType } from '../dtype.ts';
import { WeightError } from '../errors.ts';
import { sizeOf } from '../tensor.ts';
import type { SourceTensor } from '../weights.ts';

/** Elements of a block, and bytes of its codes. */
const BLOCK = 32;
const CODES = BLOCK / 2;

/**
 * `blocks` U8 `[…, out, in / 32, 16]` (two codes a byte, the earlier element in the low half) and `scales` U8
 * `[…, out, in / 32]` as one MXFP4 matrix of `shape`, whose blocks hold the scale, then elements 0 to 15 in the low and 16
 * to 31 in the high halves. The values stay as they are.
 */
export function mxfp4Rows(blocks: SourceTensor, scales: SourceTensor, shape: readonly [number, number]): SourceTensor {
  const [rows, width] = shape;
  const perRow = width / BLOCK;
  const total = rows * perRow;
  const u8 = blocks.type.name === 'U8' && scales.type.name === 'U8';
  if (!u8 || width % BLOCK !== 0 || sizeOf(blocks.shape) !== total * CODES || sizeOf(scales.shape) !== total) {
    throw new WeightError(
      `tensor "${blocks.name}": expected U8 codes and scales of a matrix [${shape}], got ${blocks.type.name} [${blocks.shape}] and ${scales.type.name} [${scales.shape}]`,
    );
  }
  const type = storageType('MXFP4');
  return {
    name: blocks.name,
    type,
    shape,
    order: Math.min(blocks.order, scales.order),
    async readRows(first, n, target) {
      const count = n * perRow;
      const codes = new Uint8Array(count * CODES);
      const exponents = new Uint8Array(count);
      // Rows of the stored tensors are single blocks, and the scales of one row.
      await blocks.readRows(first * perRow, count, codes);
      await scales.readRows(first, n, exponents);
      for (let b = 0; b < count; b++) {
        const to = b * type.blockBytes;
        const from = b * CODES;
        target[to] = exponents[b]!;
        for (let j = 0; j < CODES; j++) {
          const shift = (j & 1) * 4;
          const low = (codes[from + (j >> 1)]! >> shift) & 15;
          const high = (codes[from + CODES / 2 + (j >> 1)]! >> shift) & 15;
          target[to + 1 + j] = low | (high << 4);
        }
      }
    },
  };
}
