/**
 * A family says how matrices of one storage type are kept and multiplied. To add one: make its kernels (each once, so that
 * they can be found by identity), describe them here, and list it in `families.ts`.
 */
import type { RawSection } from '../../../core/backend.ts';
import type { Kernel, Variant } from '../kernel.ts';
import type { TileKernel } from './driver.ts';
import type { GATHER_FIELDS } from './gather.ts';
import type { QUANTIZE_FIELDS } from './quantize.ts';
import type { REPACK_FIELDS } from './repack.ts';

/** What the input rows become before they meet the weights. Equal activations are made once for a merged matrix. */
export interface Activation {
  readonly name: string;
  /** Writes codes, scales and sums of all rows in tile order. */
  readonly kernel: Kernel<typeof QUANTIZE_FIELDS>;
  /** For a single row the input can be used as it is: no copy is made, and `d` and `s` of the tile kernel are not read. */
  readonly direct: boolean;
  /** Bytes per row of `columns` columns, each a multiple of 4. */
  codeBytes(columns: number): number;
  scaleBytes(columns: number): number;
  sumBytes(columns: number): number;
}

export interface Family {
  /** For reports: a storage type, or the label of grouped rows. */
  readonly format: string;
  readonly activation: Activation;
  /** Bytes of a group of 8 rows. */
  groupBytes(columns: number): number;
  /** Presents the rows of a checkpoint in another form, which `repack` reads; absent: it reads them as they are. */
  rewrite?(raw: RawSection, columns: number): RawSection;
  /** From the rows of a checkpoint (8 at a time) to groups. */
  readonly repack: Kernel<typeof REPACK_FIELDS>;
  /** Rows as floats. */
  readonly gather: Kernel<typeof GATHER_FIELDS>;
  /** For tiles of 1, 2, 3 and 4 tokens. */
  readonly tiles: readonly [TileKernel, TileKernel, TileKernel, TileKernel];
}

/** A family for the instructions that may be used. */
export type MakeFamily = (variant: Variant) => Family;

/** All kernels of a family but the one of its activations, which families share. */
export function kernelsOf(family: Family): readonly Kernel[] {
  return [family.repack, family.gather, ...family.tiles] as readonly Kernel[];
}
