import { type StorageTypeName, storageType } from '../core/dtype.ts';
import { FP4, NF4, nearestCode } from './codes.ts';
import type { QuantFormat } from './format.ts';
import { extreme } from './search.ts';

const f = Math.fround;
const GROUP = 64;

/**
 * The 4-bit types of bitsandbytes: `absmax·book[q]`, blocks of 64; f32 absmax, 32 bytes with the first code in the high
 * half. Their checkpoints keep codes and maxima in tensors of their own, and count blocks across the ends of rows.
 */
function book4(name: StorageTypeName, book: Float32Array): QuantFormat {
  const type = storageType(name);
  return {
    type,
    unpack(bytes, at, out, outAt, blocks) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      for (let b = 0; b < blocks; b++, at += type.blockBytes, outAt += GROUP) {
        const max = view.getFloat32(at, true);
        for (let i = 0; i < GROUP; i++) {
          out[outAt + i] = book[(bytes[at + 4 + (i >> 1)]! >> (i & 1 ? 0 : 4)) & 15]! * max;
        }
      }
    },
    pack(x, out) {
      const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
      for (let start = 0, b = 0; start < x.length; start += GROUP, b += type.blockBytes) {
        const max = Math.abs(extreme(x, start, GROUP));
        view.setFloat32(b, max, true);
        for (let i = 0; i < GROUP; i++) {
          const code = nearestCode(book, max > 0 ? f(x[start + i]! / max) : 0);
          out[b + 4 + (i >> 1)]! |= code << (i & 1 ? 0 : 4);
        }
      }
    },
  };
}

export const nf4: QuantFormat = book4('NF4', NF4);
export const fp4: QuantFormat = book4('FP4', FP4);
