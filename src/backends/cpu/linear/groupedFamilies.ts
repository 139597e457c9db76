import type { StorageTypeName } from '../../../core/dtype.ts';
import type { Grouping } from '../../../core/grouped.ts';
import { GROUPED_BLOCKS } from '../../groupedBlocks.ts';
import type { Family, MakeFamily } from './family.ts';
import { PLAIN } from './float.ts';
import { type GroupedFormat, groupedBytes } from './grouped.ts';
import { groupedGather, groupedRepack, groupedTile } from './groupedKernels.ts';

/** The family of grouped rows of `columns` columns. */
export function groupedFamily(g: Grouping, columns: number): readonly [key: string, make: MakeFamily] {
  const group = g.indexed || g.group < columns ? g.group : 0;
  const shape = `${g.code}.${g.indexed ? 'indexed' : 'by'}${group}${g.bias ? '.bias' : ''}`;
  const format: GroupedFormat = { name: `grouped.${shape}`, code: g.code, group, bias: g.bias, indexed: g.indexed };
  return [`${shape} ${g.label}`, () => familyOf(format, g.label)];
}

function familyOf(format: GroupedFormat, label: string): Family {
  return {
    format: label,
    activation: PLAIN,
    groupBytes: (columns) => groupedBytes(format, columns),
    repack: groupedRepack(format),
    gather: groupedGather(format),
    tiles: [groupedTile(format, 1), groupedTile(format, 2), groupedTile(format, 3), groupedTile(format, 4)],
  };
}

/** Families of block types whose matrices are kept as grouped rows. */
export function groupedFamilies(): readonly (readonly [StorageTypeName, MakeFamily])[] {
  return [...GROUPED_BLOCKS].map(([name, { grouping, rewrite }]) => {
    const { code, group, bias, indexed } = grouping;
    const format: GroupedFormat = { name: `grouped.${name}`, code, group, bias, indexed };
    return [name, () => ({ ...familyOf(format, name), rewrite })];
  });
}
