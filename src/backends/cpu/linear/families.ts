import type { StorageType, StorageTypeName } from '../../../core/dtype.ts';
import type { Variant } from '../kernel.ts';
import { activationOf, BLOCK32_FORMATS, type Block32, offsetsOf } from './block32.ts';
import type { Family, MakeFamily } from './family.ts';
import { FLOAT_FORMATS, floatFamily } from './float.ts';
import { gatherKernel } from './gather.ts';
import { groupedFamilies, groupedFamily } from './groupedFamilies.ts';
import { codeFamilies } from './kquantFamilies.ts';
import { BLOCK } from './layout.ts';
import { BLOCK32_ACTIVATIONS } from './quantize.ts';
import { repackKernel } from './repack.ts';
import { tileKernel } from './tile.ts';

function block32Family(format: Block32): MakeFamily {
  return (variant: Variant): Family => ({
    format: format.name,
    activation: BLOCK32_ACTIVATIONS[activationOf(format, variant)],
    groupBytes: (columns) => (columns / BLOCK) * offsetsOf(format).bytes,
    repack: repackKernel(format),
    gather: gatherKernel(format),
    tiles: [tileKernel(format, 1), tileKernel(format, 2), tileKernel(format, 3), tileKernel(format, 4)],
  });
}

/** Every storage type with kernels of its own; others are expanded to floats at load. */
export const FAMILIES: ReadonlyMap<StorageTypeName, MakeFamily> = new Map<StorageTypeName, MakeFamily>([
  ...BLOCK32_FORMATS.map((format) => [format.name, block32Family(format)] as const),
  ...codeFamilies(block32Family(BLOCK32_FORMATS.find((f) => f.name === 'Q8_0') as Block32)),
  ...groupedFamilies(),
  ...FLOAT_FORMATS.map((format) => [format.name, floatFamily(format)] as const),
]);

/** A family and the key by which it is made once. */
export type KeyedFamily = readonly [key: string, make: MakeFamily];

/** The family of a type of floats. */
export function floatFamilyOf(name: 'F32' | 'BF16'): KeyedFamily {
  return [name, FAMILIES.get(name)!];
}

/** The family of a storage type, if it has one. */
export function familyOf(type: StorageType): KeyedFamily | undefined {
  if (type.grouping) return groupedFamily(type.grouping, type.blockSize);
  const make = FAMILIES.get(type.name);
  return make && [type.name, make];
}
