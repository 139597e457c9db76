/** Undoes, while reading, what writers of GGUF files change in the values. */
import { FormatError, UnsupportedError } from '../errors.ts';
import { sizeOf } from '../tensor.ts';
import type { SourceTensor } from '../weights.ts';
import { storedRowBytes } from '../weights.ts';

/**
 * Query and key rows in the order in which the two halves of a head rotate. The file has the rows of each head in pairs:
 * row `2j + h` is row `j` of half `h`. A vector (bias) counts as rows of one element.
 */
export function unpairRows(t: SourceTensor, heads: number, headDim: number): SourceTensor {
  const vector = t.shape.length === 1;
  const total = vector ? sizeOf(t.shape) : (t.shape[0] as number);
  if (t.shape.length > 2 || total !== heads * headDim || headDim % 2 !== 0) {
    throw new FormatError(`tensor "${t.name}": expected ${heads} heads of an even size ${headDim}, got [${t.shape}]`);
  }
  if (vector) {
    if (t.type.blockSize !== 1) throw notPlain(t);
    return {
      ...t,
      async readRows(_first, rows, target) {
        const stored = new Uint8Array(total * t.type.blockBytes);
        await t.readRows(0, rows, stored);
        reorder(stored, 0, target, 0, total, headDim, t.type.blockBytes);
      },
    };
  }
  const stride = storedRowBytes(t);
  return {
    ...t,
    async readRows(first, rows, target) {
      const end = first + rows;
      for (let at = first; at < end; ) {
        const stop = Math.min(end, (Math.floor(at / headDim) + 1) * headDim);
        // Only the stretch of the head that the wanted rows lie in.
        let low = source(at, headDim);
        let high = low;
        for (let r = at; r < stop; r++) {
          low = Math.min(low, source(r, headDim));
          high = Math.max(high, source(r, headDim));
        }
        const stored = new Uint8Array((high - low + 1) * stride);
        await t.readRows(low, high - low + 1, stored);
        reorder(stored, low, target.subarray((at - first) * stride), at, stop - at, headDim, stride);
        at = stop;
      }
    },
  };
}

/** Where row `r` lies in the file. */
function source(r: number, headDim: number): number {
  const inHead = r % headDim;
  const half = headDim / 2;
  return r - inHead + (inHead < half ? 2 * inHead : 2 * (inHead - half) + 1);
}

/** Copies rows `[first, first + rows)`; `stored` begins with row `low` of the file. */
function reorder(
  stored: Uint8Array,
  low: number,
  target: Uint8Array,
  first: number,
  rows: number,
  headDim: number,
  stride: number,
): void {
  for (let r = 0; r < rows; r++) {
    const from = (source(first + r, headDim) - low) * stride;
    target.set(stored.subarray(from, from + stride), r * stride);
  }
}

/** A norm weight stored as `1 + w`, as `w`. */
export function lessOne(t: SourceTensor): SourceTensor {
  return mapped(t, (v) => v - 1);
}

/** Decay rates stored as they are, negative, as logarithms of their size. */
export function logOfDecay(t: SourceTensor): SourceTensor {
  return mapped(t, (v) => Math.log(-v));
}

function mapped(t: SourceTensor, change: (value: number) => number): SourceTensor {
  if (t.type.name !== 'F32') throw notPlain(t);
  const width = t.shape[t.shape.length - 1] ?? 1;
  return {
    ...t,
    async readRows(first, rows, target) {
      const values = new Float32Array(rows * width);
      await t.readRows(first, rows, new Uint8Array(values.buffer));
      for (let i = 0; i < values.length; i++) values[i] = change(values[i] as number);
      target.set(new Uint8Array(values.buffer));
    },
  };
}

function notPlain(t: SourceTensor): UnsupportedError {
  return new UnsupportedError(`tensor "${t.name}": expected unquantized values, got ${t.type.name}`, {
    feature: `${t.type.name} vectors`,
  });
}
