import type { OptionalOps } from '../../../core/backend.ts';
import { lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { LANES } from '../wgsl.ts';

/** Columns of a workgroup, and lanes that share the rows of one. */
const COLUMNS = 32;
const SHARES = 8;

const squaresSource = (): KernelSource => ({
  label: 'add squares',
  reads: [['x', 'f32']],
  writes: [['sums', 'f32']],
  numbers: [
    ['rows', 'u32'],
    ['width', 'u32'],
  ],
  workgroup: [COLUMNS, SHARES, 1],
  declarations: `var<workgroup> parts: array<f32, ${COLUMNS * SHARES}>;`,
  body: `let column = (wid.y * nwg.x + wid.x) * ${COLUMNS}u + lid.x;
var total = 0.0;
if (column < p.width) {
  for (var row = lid.y; row < p.rows; row += ${SHARES}u) { let v = x(row * p.width + column); total += v * v; }
}
parts[li] = total;
workgroupBarrier();
if (lid.y == 0u && column < p.width) {
  for (var i = 1u; i < ${SHARES}u; i++) { total += parts[i * ${COLUMNS}u + li]; }
  set_sums(column, sums(column) + total);
}`,
});

/** A row of workgroups for each expert, a lane for each column: each looks for the pairs of its expert. */
const expertSource = (): KernelSource => ({
  label: 'add squares by expert',
  reads: [
    ['x', 'f32'],
    ['experts', 'i32'],
  ],
  writes: [
    ['sums', 'f32'],
    ['counts', 'f32'],
  ],
  numbers: [
    ['pairs', 'u32'],
    ['per_row', 'u32'],
    ['width', 'u32'],
  ],
  workgroup: [LANES, 1, 1],
  body: `let column = wid.x * ${LANES}u + li;
if (column >= p.width) { return; }
let expert = i32(wid.y);
var total = 0.0;
var rows = 0.0;
for (var i = 0u; i < p.pairs; i++) {
  if (experts(i) == expert) {
    let v = x(i / p.per_row * p.width + column);
    total += v * v;
    rows += 1.0;
  }
}
set_sums(wid.y * p.width + column, sums(wid.y * p.width + column) + total);
if (column == 0u) { set_counts(wid.y, counts(wid.y) + rows); }`,
});

export function statisticsOps(host: OpHost): Pick<OptionalOps, 'addSquares' | 'addExpertSquares'> {
  const { recorder } = host;
  const dense = lazy(host, squaresSource);
  const byExpert = lazy(host, expertSource);
  return {
    addSquares(sums, x) {
      recorder
        .start(dense())
        .bind(x)
        .bind(sums)
        .u(x.rowCount)
        .u(x.width)
        .dispatchGroups(Math.ceil(x.width / COLUMNS));
    },
    addExpertSquares(sums, counts, x, experts) {
      recorder.start(byExpert()).bind(x).bind(experts).bind(sums).bind(counts);
      recorder
        .u(experts.size)
        .u(experts.size / x.rowCount)
        .u(x.width);
      recorder.dispatch(Math.ceil(x.width / LANES), counts.size);
    },
  };
}
