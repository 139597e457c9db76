import type { RequiredOps } from '../../../core/backend.ts';
import { lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { TILE, TILE_MEMORY, type TileShape, tileBody, tileShape } from '../linear/tile.ts';

/** `[m, k] × [k, n]`, or `[n, k]` when `transposed`, one product for each step along z. */
function source(shape: TileShape, transposed: boolean): KernelSource {
  const term = transposed
    ? 'if (c < p.n && k < p.k) { v = b((batch * p.n + c) * p.k + k); }'
    : 'if (c < p.n && k < p.k) { v = b((batch * p.k + k) * p.n + c); }';
  return {
    label: `matmul${transposed ? ' transposed' : ''}`,
    reads: [
      ['a', 'f32'],
      ['b', 'f32'],
    ],
    writes: [['out', 'f32']],
    numbers: [
      ['m', 'u32'],
      ['k', 'u32'],
      ['n', 'u32'],
      ['first', 'u32'],
    ],
    workgroup: [shape.lanes, 1, 1],
    declarations: `${TILE_MEMORY}
fn left(row: u32, k: u32) -> f32 {
  var v = 0.0;
  if (k < p.k) { v = a(row * p.k + k); }
  return v;
}
fn row_of(row: u32, k: u32) -> vec4<f32> {
  return vec4<f32>(left(row, k), left(row, k + 1u), left(row, k + 2u), left(row, k + 3u));
}
fn right(batch: u32, c: u32, k: u32) -> f32 {
  var v = 0.0;
  ${term}
  return v;
}
fn put(row: u32, column: u32, v: f32) {
  if (column < p.n) { set_out(row * p.n + column, v); }
}`,
    body: `
let batch = p.first + wid.z;
let m0 = wid.x * 64u;
let f0 = wid.y * 64u;
${tileBody(shape, {
  steps: '((p.k + 31u) / 32u)',
  loadColumns: `for (var t = li; t < ${8 * TILE}u; t += ${shape.lanes}u) {
    let k = u * 32u + t / ${TILE}u * 4u;
    let c = f0 + t % ${TILE}u;
    ws[t] = vec4<f32>(right(batch, c, k), right(batch, c, k + 1u), right(batch, c, k + 2u), right(batch, c, k + 3u));
  }`,
  row: `row_of(batch * p.m + min(m0 + r, p.m - 1u), u * 32u + 4u * q)`,
  store: `if (m0 + r < p.m) { ${['x', 'y', 'z', 'w'].map((part, i) => `put(batch * p.m + m0 + r, f0 + c + ${i * shape.apart}u, v.${part});`).join(' ')} }`,
})}`,
  };
}

export function matmulOps(host: OpHost): Pick<RequiredOps, 'matmul'> {
  const { recorder } = host;
  const plain = lazy(host, () => source(tileShape(host.gpu.facts), false));
  const transposedKernel = lazy(host, () => source(tileShape(host.gpu.facts), true));
  return {
    matmul(out, a, b, transposed) {
      const m = a.dim(-2);
      const n = out.width;
      const batches = out.size / (m * n);
      const { maxWorkgroups } = host.gpu.facts;
      for (let first = 0; first < batches; first += maxWorkgroups) {
        const count = Math.min(maxWorkgroups, batches - first);
        recorder
          .start(transposed ? transposedKernel() : plain())
          .bind(a)
          .bind(b)
          .bind(out);
        recorder.u(m).u(a.width).u(n).u(first);
        recorder.dispatch(Math.ceil(m / TILE), Math.ceil(n / TILE), count);
        if (m >= TILE) recorder.heavy();
      }
    },
  };
}
