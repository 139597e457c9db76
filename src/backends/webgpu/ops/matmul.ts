import type { RequiredOps } from '../../../core/backend.ts';
import { lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { TILE, TILE_LANES, TILE_MEMORY, tileBody } from '../linear/tile.ts';

/** `[m, k] × [k, n]`, or `[n, k]` when `transposed`, one product for each step along z. */
function source(transposed: boolean): KernelSource {
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
    workgroup: [TILE_LANES, 1, 1],
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
fn put_row(row: u32, column: u32, a: vec4<f32>, b: vec4<f32>) {
  for (var i = 0u; i < 8u; i++) {
    let c = column + 8u * i;
    if (c < p.n) { set_out(row * p.n + c, select(b[i & 3u], a[i & 3u], i < 4u)); }
  }
}`,
    body: `
let batch = p.first + wid.z;
let m0 = wid.y * 64u;
let f0 = wid.x * 64u;
${tileBody({
  steps: '((p.k + 31u) / 32u)',
  loadColumns: `for (var q = 0u; q < 8u; q++) {
    let k = u * 32u + 4u * q;
    let c = f0 + li;
    ws[64u * q + li] = vec4<f32>(right(batch, c, k), right(batch, c, k + 1u), right(batch, c, k + 2u), right(batch, c, k + 3u));
  }
  let row0 = batch * p.m;`,
  row: `row_of(row0 + min(m0 + r, p.m - 1u), u * 32u + 4u * q)`,
  store: 'if (m0 + r < p.m) { put_row(batch * p.m + m0 + r, f0 + tx, a, b); }',
})}`,
  };
}

export function matmulOps(host: OpHost): Pick<RequiredOps, 'matmul'> {
  const { recorder } = host;
  const plain = lazy(host, () => source(false));
  const transposedKernel = lazy(host, () => source(true));
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
        recorder.dispatch(Math.ceil(n / TILE), Math.ceil(m / TILE), count);
        if (m >= TILE) recorder.heavy();
      }
    },
  };
}
