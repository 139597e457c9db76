import { type StorageTypeName, storageType } from '../core/dtype.ts';
import { codeAt, putCodeAt } from './bitStream.ts';
import type { QuantFormat } from './format.ts';
import { clamp } from './search.ts';

const f = Math.fround;

// f32 scale, f32 bias, codes as one bit stream. The published layout (MLX) keeps words, scales and biases in tensors of
// their own; the code words are these bytes.

/** Bytes in front of the codes. */
export const AFQ_HEADER = 8;
/** Ranges below this count as none. */
const NO_RANGE = 1e-12;
/** The range of a group and its scale must stay finite. */
const LARGEST = 1e38;

/** AFQ: `scale·q + bias` with `bits`-bit codes from the smallest element to the largest; blocks of `group`. */
function afq(name: StorageTypeName, bits: number, group: number): QuantFormat {
  const type = storageType(name);
  const levels = 2 ** bits - 1;
  return {
    type,
    largest: LARGEST,
    unpack(bytes, at, out, outAt, blocks) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      for (let b = 0; b < blocks; b++, at += type.blockBytes, outAt += group) {
        const scale = view.getFloat32(at, true);
        const bias = view.getFloat32(at + 4, true);
        for (let i = 0; i < group; i++) out[outAt + i] = f(scale * codeAt(bytes, at + AFQ_HEADER, bits, i)) + bias;
      }
    },
    pack(x, out) {
      const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
      for (let start = 0, b = 0; start < x.length; start += group, b += type.blockBytes) {
        let low = x[start]!;
        let high = low;
        for (let i = start; i < start + group; i++) {
          low = Math.min(low, x[i]!);
          high = Math.max(high, x[i]!);
        }
        const range = f(high - low);
        const scale = range < NO_RANGE ? 1 : f(range / levels);
        view.setFloat32(b, scale, true);
        view.setFloat32(b + 4, low, true);
        for (let i = 0; i < group; i++) {
          const code = Math.floor(f(f(f(x[start + i]! - low) / scale) + 0.5));
          putCodeAt(out, b + AFQ_HEADER, bits, i, clamp(code, 0, levels));
        }
      }
    },
  };
}

const BITS = [2, 3, 4, 6, 8] as const;

/** AFQ by bits and group size; 64 is the group that goes without saying. */
export const afqFormats: readonly QuantFormat[] = BITS.flatMap((bits) => [
  afq(`AFQ${bits}`, bits, 64),
  afq(`AFQ${bits}_G32`, bits, 32),
  afq(`AFQ${bits}_G128`, bits, 128),
]);
