import { FormatError, UnsupportedError } from '../../core/errors.ts';
import type { Shape } from '../../core/tensor.ts';
import type { SourceTensor } from '../../core/weights.ts';
import { bytesOf, floatsOf, type Replaced } from './parts.ts';

const BLOCK: Shape = [128, 128];
const NAN_CODE = 127;
/** Scales of activations and caches: activations are not rounded to 8 bits here. */
export const ACTIVATION_SCALES =
  /\.(input_scale|input_zero_point|input_global_scale|output_scale|activation_scale|activation_scale_ub|input_scale_ub|[qkv]_scale|kv_cache_scale)$/;

/**
 * FP8: E4M3 `x.weight` times `x.weight_scale_inv` or `x.weight_scale`, which is one number, one per row, or one per block of
 * rows and columns (`weight_block_size`, 128 × 128).
 */
export function readFp8(r: Replaced, settings: Readonly<Record<string, unknown>>): void {
  const given = settings['weight_block_size'] ?? BLOCK;
  const block = Array.isArray(given) && given.length === 2 && given.every((n) => Number.isSafeInteger(n) && n > 0);
  if (!block)
    throw new FormatError(`quantization_config.weight_block_size: expected two numbers, got ${String(given)}`);
  if (settings['fmt'] !== undefined && settings['fmt'] !== 'e4m3') {
    throw new UnsupportedError(`quantization_config.fmt: expected e4m3, got ${JSON.stringify(settings['fmt'])}`, {
      feature: 'FP8 format',
    });
  }
  for (const name of [...r.source.names()]) {
    const weight = r.source.get(name);
    const scale = ['_scale_inv', '_scale'].find((s) => r.source.get(name + s));
    if (weight?.type.name !== 'F8_E4M3' || !scale) continue;
    addScaled(r, r.take(name), r.take(name + scale), { label: 'FP8', code: 'e4m3', block: given as Shape });
  }
  r.hide(ACTIVATION_SCALES);
}

/**
 * A matrix of one-byte codes, under scales for all of it, for rows, or for blocks. Leading axes (experts) have blocks of
 * their own.
 */
export function addScaled(
  r: Replaced,
  weight: SourceTensor,
  scale: SourceTensor,
  how: { readonly label: string; readonly code: 'e4m3' | 'i8'; readonly block: Shape },
): void {
  const [out = 0, columns = 0] = weight.shape.slice(-2);
  const matrices = weight.shape.slice(0, -2).reduce((n, d) => n * d, 1);
  const count = scale.shape.reduce((n, d) => n * d, 1);
  const block = tileOf(weight, scale, matrices, out, columns, count, how.block);
  const across = Math.ceil(columns / block.columns);
  const down = Math.ceil(out / block.rows);
  const shared = count === 1;
  r.add({
    name: weight.name,
    order: weight.order,
    shape: weight.shape,
    grouping: { label: how.label, code: how.code, group: block.columns, bias: false, indexed: false },
    async prepare() {
      const scales = await floatsOf(scale);
      return async (first, rows, row, done) => {
        const codes = await bytesOf(weight, first, rows);
        for (let o = first; o < first + rows; o++) {
          const grid = Math.floor(o / out) * down + Math.floor((o % out) / block.rows);
          for (let g = 0; g < across; g++) row.scales[g] = scales[shared ? 0 : grid * across + g]!;
          row.codes.set(codes.subarray((o - first) * columns, (o - first + 1) * columns));
          if (how.code === 'e4m3') checkNumbers(weight.name, o, row.codes);
          done();
        }
      };
    },
  });
}

interface Tile {
  readonly rows: number;
  readonly columns: number;
}

function tileOf(
  weight: SourceTensor,
  scale: SourceTensor,
  matrices: number,
  out: number,
  columns: number,
  count: number,
  block: Shape,
): Tile {
  const [blockRows = 1, blockColumns = 1] = block;
  const tiles: readonly Tile[] = [
    { rows: blockRows, columns: blockColumns },
    { rows: 1, columns },
    { rows: out, columns },
  ];
  // A vector of scales, or a single column of them, is one per row.
  const perRow = scale.shape.length === 1 || scale.shape.at(-1) === 1;
  const fits = (t: Tile) => matrices * Math.ceil(out / t.rows) * Math.ceil(columns / t.columns) === count;
  const found = (perRow ? [tiles[1]!, tiles[2]!, tiles[0]!] : tiles).find(fits);
  if (found) return found;
  // One scale for everything, where there are several matrices.
  if (count === 1) return tiles[2]!;
  throw new FormatError(
    `tensor "${scale.name}": expected one scale, one per row, or one per ${blockRows} × ${blockColumns} block of [${weight.shape}], got [${scale.shape}]`,
  );
}

function checkNumbers(name: string, row: number, codes: Uint8Array): void {
  for (let k = 0; k < codes.length; k++) {
    if ((codes[k]! & NAN_CODE) !== NAN_CODE) continue;
    throw new FormatError(
      `tensor "${name}": expected numbers, got NaN in row ${row}, column ${k}; the file is damaged`,
    );
  }
}
