/** Rows of one storage type become rows of another. A pure function, so that it can run in any thread. */
import { bf16ToF32, f32ToBf16, type StorageType, type StorageTypeName } from '../../core/dtype.ts';
import { type Grouping, groupedRow } from '../../core/grouped.ts';
import { e4m3Code } from '../codes.ts';
import { dequantizeInto, quantize } from '../rows.ts';

/** What rows are packed as. */
export type PackTarget =
  | { readonly kind: 'blocks'; readonly name: StorageTypeName }
  | { readonly kind: 'hqq'; readonly bits: 4 | 8; readonly grouping: Grouping }
  /** E4M3 codes; `largest` is the largest magnitude of the tensor. */
  | { readonly kind: 'fp8'; readonly largest: number; readonly grouping: Grouping };

export interface PackJob {
  readonly from: StorageType;
  readonly columns: number;
  readonly bytes: Uint8Array;
  readonly target: PackTarget;
  /** One weight per column. */
  readonly importance?: Float32Array | undefined;
}

/** The rows of `job.bytes` as `job.target`. Throws what `quantize` throws. */
export function packRows(job: PackJob): Uint8Array<ArrayBuffer> {
  const { from, columns, bytes, target, importance } = job;
  const x = new Float32Array((bytes.length / from.blockBytes) * from.blockSize);
  dequantizeInto(from, bytes, 0, x, 0, x.length);
  switch (target.kind) {
    case 'blocks':
      return quantize(target.name, x, columns, importance ? { importance } : {});
    case 'hqq':
      return packHqq(x, columns, target.bits, target.grouping);
    case 'fp8':
      return packFp8(x, columns, target.largest, target.grouping);
  }
}

/** HQQ with groups along the rows: each group is solved as a matrix of its own. */
function packHqq(x: Float32Array, columns: number, bits: 4 | 8, g: Grouping): Uint8Array<ArrayBuffer> {
  const { group } = g;
  const layout = groupedRow(g, columns);
  const rows = x.length / columns;
  const out = new Uint8Array(rows * layout.bytes);
  const to = new DataView(out.buffer);
  const name = `HQQ${bits}`;
  const codesBytes = (group * bits) / 8;
  for (let row = 0; row < rows; row++) {
    const at = row * layout.bytes;
    for (let k = 0; k < columns; k += group) {
      const solved = quantize(name, x.subarray(row * columns + k, row * columns + k + group), group);
      const view = new DataView(solved.buffer);
      const scale = view.getFloat32(codesBytes, true);
      to.setFloat32(at + 4 * (k / group), scale, true);
      to.setFloat32(at + layout.biases + 4 * (k / group), -view.getFloat32(codesBytes + 4, true) * scale, true);
      for (let i = 0; i < group; i++) {
        // Of two codes in a byte, the first half of a group is in the high bits.
        const code = bits === 8 ? solved[i]! : (solved[i % 32]! >> (i < 32 ? 4 : 0)) & 15;
        const c = k + i;
        if (bits === 8) out[at + layout.codes + c] = code;
        else out[at + layout.codes + (c >> 1)]! |= code << (4 * (c & 1));
      }
    }
  }
  return out;
}

const MAX_E4M3 = 448;
/** 448 divided by anything smaller would be infinite. */
const NO_SCALE = 1e-36;
const f = Math.fround;

/** One scale for the whole tensor, which every row repeats; elements are rounded to bfloat16 first. */
function packFp8(x: Float32Array, columns: number, largest: number, g: Grouping): Uint8Array<ArrayBuffer> {
  const layout = groupedRow(g, columns);
  const rows = x.length / columns;
  const out = new Uint8Array(rows * layout.bytes);
  const view = new DataView(out.buffer);
  const bf16 = (v: number) => bf16ToF32(f32ToBf16(v));
  const factor = largest > NO_SCALE ? f(MAX_E4M3 / bf16(largest)) : 1;
  for (let row = 0; row < rows; row++) {
    const at = row * layout.bytes;
    view.setFloat32(at, f(1 / factor), true);
    for (let c = 0; c < columns; c++) out[at + layout.codes + c] = e4m3Code(f(bf16(x[row * columns + c]!) * factor));
  }
  return out;
}
