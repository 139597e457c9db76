/**
 * The tiled product: 64 columns of the result by 64 rows, 32 terms at a time, by 64 lanes with 8 × 8 results each. Both
 * operands pass through workgroup memory as vectors along the terms: `ws[q * 64 + column]` and `xs[q * 64 + (row ^ q)]`
 * (the exclusive or spreads writes of one row over the banks). 16 KiB, which every adapter has.
 */

/** Columns and rows of a tile. */
export const TILE = 64;
/** Lanes of its workgroup. */
export const TILE_LANES = 64;

const eight = [0, 1, 2, 3, 4, 5, 6, 7] as const;

export const TILE_MEMORY = `
var<workgroup> ws: array<vec4<f32>, 512>;
var<workgroup> xs: array<vec4<f32>, 512>;
`;

export interface TileParts {
  /** Statements that fill `ws` for step `u`. */
  readonly loadColumns: string;
  /** Expression for terms `4 q …` of row `r` of the tile at step `u`. */
  readonly row: string;
  /** Uniform expression: how many steps there are. */
  readonly steps: string;
  /** Statements for the results `a` and `b` of row `r`: those of columns `tx + 8 i`, i below 4 and from 4 on. */
  readonly store: string;
}

/** The body of `main`. */
export function tileBody(parts: TileParts): string {
  const sums = eight.flatMap((j) => [`c${j}a`, `c${j}b`]);
  const products = eight.map((j) => {
    const part = (first: number) => `vec4<f32>(${[0, 1, 2, 3].map((i) => `dot(w${first + i}, v)`).join(', ')})`;
    return `v = xs[first + ${8 * j}u]; c${j}a += ${part(0)}; c${j}b += ${part(4)};`;
  });
  return `
let tx = li & 7u;
let ty = li >> 3u;
${sums.map((s) => `var ${s} = vec4<f32>();`).join(' ')}
for (var u = 0u; u < ${parts.steps}; u++) {
  workgroupBarrier();
  ${parts.loadColumns}
  for (var t = 0u; t < 8u; t++) {
    let r = 8u * t + ty;
    let q = tx;
    xs[q * 64u + (r ^ q)] = ${parts.row};
  }
  workgroupBarrier();
  for (var q = 0u; q < 8u; q++) {
    let at = q * 64u + tx;
    ${eight.map((i) => `let w${i} = ws[at + ${8 * i}u];`).join(' ')}
    let first = q * 64u + (ty ^ q);
    var v: vec4<f32>;
    ${products.join('\n    ')}
  }
}
${eight.map((j) => `{ let r = ty + ${8 * j}u; let a = c${j}a; let b = c${j}b; ${parts.store} }`).join('\n')}
`;
}
