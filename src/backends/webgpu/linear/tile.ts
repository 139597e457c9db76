/**
 * The tiled product: 64 columns of the result by 64 rows, 32 terms at a time. Both operands pass through workgroup memory
 * as vectors along the terms: `ws[q * 64 + column]` and `xs[q * 64 + (row ^ q)]` (the exclusive or spreads writes of one
 * row over the banks). 16 KiB, which every adapter has.
 *
 * Tiles of 16-bit floats are left out: rounding `x` to eleven bits costs a thousand times the error that ops may have, and
 * activations of real models leave the range of half precision. Block formats have integers instead, see `tile8.ts`.
 */
import type { DeviceFacts } from '../device.ts';

/** Columns and rows of a tile. */
export const TILE = 64;

/** How a tile is shared out: each lane computes `block` × `block` results, `apart` columns and rows apart. */
export interface TileShape {
  readonly block: 4 | 8;
  readonly apart: number;
  readonly lanes: number;
}

/** Large blocks read workgroup memory less often; the compilers of software adapters take minutes over them. */
export function tileShape(facts: DeviceFacts): TileShape {
  const block = facts.software ? 4 : 8;
  const apart = TILE / block;
  return { block, apart, lanes: apart * apart };
}

export const TILE_MEMORY = `
var<workgroup> ws: array<vec4<f32>, ${8 * TILE}>;
var<workgroup> xs: array<vec4<f32>, ${8 * TILE}>;
`;

export interface TileParts {
  /** Statements that fill `ws` for step `u`. */
  readonly loadColumns: string;
  /** Expression for terms `4 q …` of row `r` of the tile at step `u`. */
  readonly row: string;
  /** Uniform expression: how many steps there are. */
  readonly steps: string;
  /** Statement for the results `v` of row `r`: those of columns `c`, `c + apart`, `c + 2 apart` and `c + 3 apart`. */
  readonly store: string;
}

const numbers = (n: number) => Array.from({ length: n }, (_, i) => i);

/** The body of `main`. */
export function tileBody({ block, apart, lanes }: TileShape, parts: TileParts): string {
  const rows = numbers(block);
  const quarters = numbers(block / 4);
  const sums = rows.flatMap((j) => quarters.map((k) => `c${j}_${k}`));
  const products = rows.map((j) => {
    const dots = (k: number) => numbers(4).map((i) => `dot(w${4 * k + i}, v)`);
    return `v = xs[first + ${apart * j}u]; ${quarters.map((k) => `c${j}_${k} += vec4<f32>(${dots(k).join(', ')});`).join(' ')}`;
  });
  const stores = rows.flatMap((j) =>
    quarters.map(
      (k) => `{ let r = ty + ${apart * j}u; let c = tx + ${4 * k * apart}u; let v = c${j}_${k}; ${parts.store} }`,
    ),
  );
  return `
let tx = li % ${apart}u;
let ty = li / ${apart}u;
${sums.map((s) => `var ${s} = vec4<f32>();`).join(' ')}
for (var u = 0u; u < ${parts.steps}; u++) {
  workgroupBarrier();
  ${parts.loadColumns}
  for (var t = li; t < ${8 * TILE}u; t += ${lanes}u) {
    let r = t / 8u;
    let q = t % 8u;
    xs[q * ${TILE}u + (r ^ q)] = ${parts.row};
  }
  workgroupBarrier();
  for (var q = 0u; q < 8u; q++) {
    let at = q * ${TILE}u + tx;
    ${rows.map((i) => `let w${i} = ws[at + ${apart * i}u];`).join(' ')}
    let first = q * ${TILE}u + (ty ^ q);
    var v: vec4<f32>;
    ${products.join('\n    ')}
  }
}
${stores.join('\n')}
`;
}
