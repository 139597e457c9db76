import type { StorageTypeName } from '../../../core/dtype.ts';
import type { Grouping } from '../../../core/grouped.ts';
import { GROUPED_BLOCKS } from '../../groupedBlocks.ts';
import type { Family, MakeFamily } from './family.ts';
import { PLAIN } from './float.ts';
import { type GroupedFormat, groupedBytes } from './grouped.ts';
import { groupedGather, groupedRepack, groupedTile } from './groupedKernels.ts';
import { layoutOf, plainRows } from './groupedLayout.ts';
import type { CodeFormat } from './kquant.ts';
import { codeFamily, rewritten } from './kquantFamilies.ts';
import { plainStored } from './kquantStored.ts';

/** The family of grouped rows of `columns` columns. */
export function groupedFamily(g: Grouping, columns: number): readonly [key: string, make: MakeFamily] {
  const layout = layoutOf(g, columns);
  if (layout) return [`${layout.name} ${g.label}`, integerFamily(g.label, layout)];
  const group = g.indexed || g.group < columns ? g.group : 0;
  const shape = `${g.code}.${g.indexed ? 'indexed' : 'by'}${group}${g.bias ? '.bias' : ''}`;
  const format: GroupedFormat = { name: `grouped.${shape}`, code: g.code, group, bias: g.bias, indexed: g.indexed };
  return [`${shape} ${g.label}`, () => floatFamily(format, g.label)];
}

/** Codes are integers, and so are the activations. */
function integerFamily(label: string, layout: CodeFormat, toGrouped?: Family['rewrite']): MakeFamily {
  const stored = plainStored(layout);
  const block = { blockSize: layout.block, blockBytes: stored.bytes };
  return codeFamily(label, stored, (raw, columns) => {
    const grouped = toGrouped?.(raw, columns) ?? raw;
    return rewritten(grouped, columns, block, plainRows(grouped.type.grouping!, columns, layout));
  });
}

function floatFamily(format: GroupedFormat, label: string): Family {
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
  return [...GROUPED_BLOCKS].map(([name, { grouping, bits, rewrite }]) => {
    const { bias, group } = grouping;
    // Unsigned codes of few bits fit into products of bytes.
    const layout = layoutOf(grouping, group, { bits, wide: !bias || bits === 8 });
    return [name, integerFamily(name, layout!, rewrite)];
  });
}
