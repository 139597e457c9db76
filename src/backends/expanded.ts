/** Types without kernels of their own, as floats. */
import type { RawSection } from '../core/backend.ts';
import { f32ToBf16, rowBytes, type StorageTypeName, storageType } from '../core/dtype.ts';
import { dequantizeInto } from '../quant/index.ts';

/** Types whose numbers bfloat16 holds exactly. */
const SMALL: ReadonlySet<StorageTypeName> = new Set<StorageTypeName>([
  ...(['I8', 'U8', 'BOOL', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ'] as const),
  ...(['F4', 'F6_E2M3', 'F6_E3M2'] as const),
]);

/** The smaller type of floats that holds all numbers of a type as they are, else F32. */
export function floatsFor(name: StorageTypeName): 'BF16' | 'F32' {
  return SMALL.has(name) ? 'BF16' : 'F32';
}

/** The same rows as floats. */
export function expanded(raw: RawSection, columns: number, to: 'BF16' | 'F32'): RawSection {
  const stored = rowBytes(raw.type, columns)!;
  return {
    type: storageType(to),
    rows: raw.rows,
    async readRows(first, rows, target) {
      const bytes = new Uint8Array(rows * stored);
      await raw.readRows(first, rows, bytes);
      const values = new Float32Array(rows * columns);
      dequantizeInto(raw.type, bytes, 0, values, 0, values.length);
      target.set(new Uint8Array(to === 'BF16' ? Uint16Array.from(values, f32ToBf16).buffer : values.buffer));
    },
  };
}
