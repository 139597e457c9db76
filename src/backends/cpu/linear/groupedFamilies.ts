import type { StorageType, StorageTypeName } from '../../../core/dtype.ts';
import type { Grouping } from '../../../core/grouped.ts';
import { GROUPED_BLOCKS } from '../../groupedBlocks.ts';
import type { Family, MakeFamily } from './family.ts';
import { PLAIN, SCALED } from './float.ts';
import { type GroupedFormat, groupedBytes } from './grouped.ts';
import { e4m3Tile } from './groupedE4m3.ts';
import { groupedGather, groupedRepack, groupedTile } from './groupedKernels.ts';
import { layoutOf, plainBlocks, plainRows } from './groupedLayout.ts';
import type { CodeFormat } from './kquant.ts';
import { codeFamily, rewritten } from './kquantFamilies.ts';
import type { RowRewriter } from './kquantRewrite.ts';
import { plainStored } from './kquantStored.ts';

/** The family of grouped rows of `columns` columns. */
export function groupedFamily(g: Grouping, columns: number): readonly [key: string, make: MakeFamily] {
  const layout = layoutOf(g, columns);
  if (layout) {
    const make = integerFamily(g.label, layout, (type, width) => plainRows(type.grouping!, width, layout));
    return [`${layout.name} ${g.label}`, make];
  }
  const group = g.indexed || g.group < columns ? g.group : 0;
  const shape = `${g.code}.${g.indexed ? 'indexed' : 'by'}${group}${g.bias ? '.bias' : ''}`;
  const format: GroupedFormat = { name: `grouped.${shape}`, code: g.code, group, bias: g.bias, indexed: g.indexed };
  return [`${shape} ${g.label}`, () => floatFamily(format, g.label)];
}

/** Codes are integers, and so are the activations. `rewriter` makes what brings rows into the form of `plainStored`. */
function integerFamily(
  label: string,
  layout: CodeFormat,
  rewriter: (type: StorageType, columns: number) => RowRewriter['rewrite'],
): MakeFamily {
  const stored = plainStored(layout);
  const block = { blockSize: layout.block, blockBytes: stored.bytes };
  return codeFamily(label, stored, (raw, columns) => rewritten(raw, columns, block, rewriter(raw.type, columns)));
}

function floatFamily(format: GroupedFormat, label: string): Family {
  const summed = format.code === 'e4m3' && !format.bias && !format.indexed;
  const tile = summed ? e4m3Tile : groupedTile;
  return {
    format: label,
    activation: summed ? SCALED : PLAIN,
    groupBytes: (columns) => groupedBytes(format, columns),
    repack: groupedRepack(format),
    gather: groupedGather(format),
    tiles: [tile(format, 1), tile(format, 2), tile(format, 3), tile(format, 4)],
  };
}

/** Families of block types whose matrices are kept as grouped rows. */
export function groupedFamilies(): readonly (readonly [StorageTypeName, MakeFamily])[] {
  return [...GROUPED_BLOCKS].map(([name, blocks]) => {
    const { bits, grouping } = blocks;
    const layout = layoutOf(grouping, grouping.group, bits)!;
    return [name, integerFamily(name, layout, ({ blockBytes }) => plainBlocks(blocks, blockBytes, layout))];
  });
}
