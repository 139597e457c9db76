import type { RawSection } from '../../../core/backend.ts';
import { rowBytes, type StorageTypeName, storageType } from '../../../core/dtype.ts';
import type { Variant } from '../kernel.ts';
import type { Activation, Family, MakeFamily } from './family.ts';
import { type CodeFormat, codeOffsets, isWide } from './kquant.ts';
import { quantizeK8, quantizeK16, SUM_BYTES, SUPER_BLOCK, type SuperActivation } from './kquantActivations.ts';
import { codeGatherKernel } from './kquantGather.ts';
import { codeRepackKernel } from './kquantRepack.ts';
import { q8_1ToQ8_0, rowRewriter } from './kquantRewrite.ts';
import { plainStored, STORED_FORMATS, type StoredFormat } from './kquantStored.ts';
import { codeTileKernel } from './kquantTile.ts';
import { BLOCK32_ACTIVATIONS } from './quantize.ts';

const perBlock256 = (kind: SuperActivation): Activation => {
  const kernel = kind === 'k8' ? quantizeK8 : quantizeK16;
  return {
    name: kind,
    kernel,
    direct: false,
    codeBytes: (columns) => (kind === 'k8' ? 1 : 2) * columns,
    scaleBytes: (columns) => (columns / SUPER_BLOCK) * 4,
    sumBytes: (columns) => (columns / SUPER_BLOCK) * SUM_BYTES,
  };
};
/** Activations in blocks of 256 columns, for every format with such blocks. */
export const SUPER_ACTIVATIONS = { k8: perBlock256('k8'), k16: perBlock256('k16') } as const;

function activationOf(format: CodeFormat, variant: Variant): Activation {
  const wide = isWide(format, variant);
  if (format.inputs === 256) return wide ? SUPER_ACTIVATIONS.k16 : SUPER_ACTIVATIONS.k8;
  return wide ? BLOCK32_ACTIVATIONS.i16 : BLOCK32_ACTIVATIONS.i8;
}

/** Bytes of one group of 8 rows. */
export function groupBytesOf(format: CodeFormat, columns: number): number {
  return (columns / format.block) * codeOffsets(format).bytes;
}

/** The family of matrices in one of the layouts; `name` is what reports call it. */
export function codeFamily(name: string, stored: StoredFormat, rewrite?: Family['rewrite']): MakeFamily {
  const { format } = stored;
  return (variant) => ({
    format: name,
    activation: activationOf(format, variant),
    groupBytes: (columns) => groupBytesOf(format, columns),
    repack: codeRepackKernel(stored, name),
    gather: codeGatherKernel(format),
    tiles: [codeTileKernel(format, 1), codeTileKernel(format, 2), codeTileKernel(format, 3), codeTileKernel(format, 4)],
    ...(rewrite ? { rewrite } : {}),
  });
}

/**
 * A section whose rows are rewritten on the way in. `blockSize` columns of the result occupy `blockBytes` bytes. The name
 * of its type stays that of the checkpoint.
 */
export function rewritten(
  raw: RawSection,
  columns: number,
  block: { readonly blockSize: number; readonly blockBytes: number },
  rewrite: (source: Uint8Array, target: Uint8Array) => void,
): RawSection {
  const bytes = rowBytes(raw.type, columns)!;
  return {
    type: { ...raw.type, ...block },
    rows: raw.rows,
    async readRows(first, rows, target) {
      const source = new Uint8Array(rows * bytes);
      await raw.readRows(first, rows, source);
      rewrite(source, target);
    },
  };
}

/** Types that are not read as they are stored, but rewritten first. */
const REWRITTEN = [
  ...(['IQ1_S', 'IQ1_M', 'IQ2_XXS', 'IQ2_XS', 'IQ2_S', 'IQ3_XXS', 'IQ3_S'] as const),
  ...(['TQ1_0', 'Q8_K', 'Q1_0', 'NVFP4'] as const),
];

/**
 * Families of the formats in `kquant.ts`. `q8_0` makes the family that multiplies Q8_1 matrices, whose blocks differ by a
 * field that is not needed.
 */
export function codeFamilies(q8_0: MakeFamily): readonly (readonly [StorageTypeName, MakeFamily])[] {
  const direct = Object.entries(STORED_FORMATS).map(([name, stored]) => {
    const type = name as keyof typeof STORED_FORMATS;
    return [type, codeFamily(type, stored)] as const;
  });
  const others = REWRITTEN.map((name) => {
    const make: MakeFamily = (variant) => {
      const rewriter = rowRewriter(name)!;
      const stored = plainStored(rewriter.format);
      const block = { blockSize: rewriter.format.block, blockBytes: stored.bytes };
      const rewrite: Family['rewrite'] = (raw, columns) => rewritten(raw, columns, block, rewriter.rewrite);
      return codeFamily(name, stored, rewrite)(variant);
    };
    return [name, make] as const;
  });
  const { blockSize, blockBytes } = storageType('Q8_0');
  const q8_1: MakeFamily = (variant) => ({
    ...q8_0(variant),
    format: 'Q8_1',
    rewrite: (raw, columns) => rewritten(raw, columns, { blockSize, blockBytes }, q8_1ToQ8_0),
  });
  return [...direct, ...others, ['Q8_1', q8_1]];
}
