/**
 * Layers whose state is a matrix `[depth, width]` for each head. A workgroup runs the rows of one sequence through 32 columns
 * of one head: its lanes keep the columns in registers, eight lanes a column, and the state is read and written once.
 */
import type { Batch, OptionalOps } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import { kernels, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import type { Recorder } from '../recorder.ts';
import { FUNCTIONS, SOFTPLUS_REST } from '../wgsl.ts';
import { bindBatch, DIRECT, PLANNED, type SequenceAccess, sequencePlans } from './sequences.ts';

const COLUMNS = 32;
const SLICES = 8;
const SCAN_LANES = COLUMNS * SLICES;

interface ScanParts {
  readonly label: string;
  readonly reads: KernelSource['reads'];
  readonly numbers: KernelSource['numbers'];
  /** Sums over the depth that a row needs: `some0`, `some1`, … of the lane become `all0`, `all1`, … of the column. */
  readonly sums: number;
  /** Statements of row `r` before the loop over depth; `v` is the value of the column. */
  readonly before: string;
  /** Statements for entry `cells[i]` of depth `n`. */
  readonly each: string;
  /** Statements after the sums. They may change the entries. */
  readonly after: string;
  /** The result of the column. */
  readonly result: string;
}

/** Loops over the entries that a lane keeps. */
const each = (cells: number, body: string) => `for (var i = 0u; i < ${cells}u; i++) {
    let n = slice + ${SLICES}u * i;
    if (n < p.depth) { ${body} }
  }`;

/** `cells`: entries that a lane keeps of its column. */
function scanSource(parts: ScanParts, access: SequenceAccess, cells: number): KernelSource {
  const sums = Array.from({ length: parts.sums }, (_, k) => k);
  return {
    label: `${parts.label} ${cells}`,
    reads: [...parts.reads, ...access.reads],
    writes: [
      ['state', 'f32'],
      ['out', 'f32'],
    ],
    numbers: [
      ['sequences', 'u32'],
      ['heads', 'u32'],
      ['depth', 'u32'],
      ['width', 'u32'],
      ['x_width', 'u32'],
      ['gate_width', 'u32'],
      ['start', 'u32'],
      ...parts.numbers,
    ],
    workgroup: [SCAN_LANES, 1, 1],
    // Rows take turns with two halves, so that one barrier a row is enough.
    declarations: `${FUNCTIONS}${SOFTPLUS_REST}${access.code}
fn softplus(x: f32) -> f32 { return max(x, 0.0) + softplus_rest(exp(-abs(x))); }
var<workgroup> sums: array<f32, ${2 * parts.sums * SCAN_LANES}>;
fn total(first: u32) -> f32 {
  var all = sums[first];
  for (var k = 1u; k < ${SLICES}u; k++) { all += sums[first + ${COLUMNS}u * k]; }
  return all;
}`,
    body: `
let group = wid.y * nwg.x + wid.x;
let blocks = (p.width + ${COLUMNS - 1}u) / ${COLUMNS}u;
let sequence = group / (p.heads * blocks);
if (sequence >= p.sequences) { return; }
let rows = rows_of(sequence);
if (rows.x == rows.y) { return; }
let h = group / blocks % p.heads;
let column = li % ${COLUMNS}u;
let slice = li / ${COLUMNS}u;
let d = group % blocks * ${COLUMNS}u + column;
let inside = d < p.width;
let place = (rows.z * p.heads + h) * p.depth * p.width + d;
var cells: array<f32, ${cells}>;
if (rows.w != 0u && inside) {
  ${each(cells, 'cells[i] = state(place + n * p.width);')}
}
for (var r = rows.x; r < rows.y; r++) {
  ${parts.before}
  ${sums.map((k) => `var some${k} = 0.0;`).join(' ')}
  ${each(cells, parts.each)}
  let turn = (r & 1u) * ${parts.sums * SCAN_LANES}u;
  ${sums.map((k) => `sums[turn + ${k * SCAN_LANES}u + li] = some${k};`).join(' ')}
  workgroupBarrier();
  ${sums.map((k) => `let all${k} = total(turn + ${k * SCAN_LANES}u + column);`).join(' ')}
  ${parts.after}
  if (slice == 0u && inside) { set_out((r * p.heads + h) * p.width + d, ${parts.result}); }
}
if (inside) {
  ${each(cells, 'set_state(place + n * p.width, cells[i]);')}
}`,
  };
}

/** A column outside of the head has the value 0. */
const VALUE = (at: string) => `var v = 0.0;
  if (inside) { v = x(${at}); }`;

const SSM: ScanParts = {
  label: 'selective scan',
  reads: [
    ['x', 'f32'],
    ['dt', 'f32'],
    ['decay', 'f32'],
    ['bias', 'f32'],
    ['skip', 'f32'],
  ],
  numbers: [
    ['groups', 'u32'],
    ['min_step', 'f32'],
    ['max_step', 'f32'],
  ],
  sums: 1,
  before: `let step = clamp(softplus(dt(r * p.gate_width + p.start + h) + bias(h)), p.min_step, p.max_step);
  let fade = exp(step * decay(h));
  let values = r * p.x_width;
  ${VALUE('values + h * p.width + d')}
  let key = values + p.heads * p.width + h * p.groups / p.heads * p.depth;
  let query = key + p.groups * p.depth;`,
  each: `cells[i] = fma(x(key + n), step * v, fade * cells[i]);
      some0 = fma(cells[i], x(query + n), some0);`,
  after: '',
  result: 'fma(skip(h), v, all0)',
};

/** `Sᵀ q` of the new state is that of the faded one plus `(k · q)` times the change: all sums of a row are taken at once. */
const delta = (cells: number): ScanParts => ({
  label: 'gated delta rule',
  reads: [
    ['x', 'f32'],
    ['gates', 'f32'],
    ['decay', 'f32'],
    ['bias', 'f32'],
  ],
  numbers: [
    ['key_heads', 'u32'],
    ['cyclic', 'u32'],
    ['scale', 'f32'],
    ['eps', 'f32'],
  ],
  sums: 5,
  before: `let gate = r * p.gate_width + p.start + h;
  let strength = sigmoid(gates(gate));
  let fade = exp(decay(h) * softplus(gates(gate + p.heads) + bias(h)));
  let key_head = select(h * p.key_heads / p.heads, h % p.key_heads, p.cyclic != 0u);
  let query = r * p.x_width + key_head * p.depth;
  let key = query + p.key_heads * p.depth;
  ${VALUE('r * p.x_width + 2u * p.key_heads * p.depth + h * p.width + d')}`,
  each: `let k = x(key + n);
      let q = x(query + n);
      cells[i] *= fade;
      some0 = fma(cells[i], k, some0);
      some1 = fma(cells[i], q, some1);
      some2 = fma(k, k, some2);
      some3 = fma(q, q, some3);
      some4 = fma(k, q, some4);`,
  after: `let key_scale = 1.0 / sqrt(all2 + p.eps);
  let change = strength * (v - all0 * key_scale) * key_scale;
  ${each(cells, 'cells[i] = fma(x(key + n), change, cells[i]);')}`,
  result: 'fma(all4, change, all1) * p.scale / sqrt(all3 + p.eps)',
});

/** Entries that a lane keeps, in powers of two so that models of like size share a kernel. */
const cellsOf = (depth: number) => 2 ** Math.ceil(Math.log2(Math.max(1, depth / SLICES)));

export function scanOps(host: OpHost): Required<Pick<OptionalOps, 'ssmScan' | 'gatedDelta'>> {
  const { recorder } = host;
  const plan = sequencePlans(host);
  const family = (parts: (cells: number) => ScanParts) => {
    const { reads } = parts(1);
    const fits = reads.length + DIRECT.reads.length + 2 <= host.gpu.facts.maxBindings;
    const access = fits ? DIRECT : PLANNED;
    return { fits, kernel: kernels(host, (cells: number) => scanSource(parts(cells), access, cells)) };
  };
  const selective = family(() => SSM);
  const gated = family(delta);

  /** Starts the kernel; the reads that only it has are bound by the caller. */
  const finish = (planned: Tensor | undefined, state: Tensor, out: Tensor, batch: Batch): Recorder => {
    const [, heads, depth, width] = state.shape as [number, number, number, number];
    if (planned) recorder.bind(planned);
    else bindBatch(recorder, batch);
    return recorder.bind(state).bind(out).u(batch.sequences).u(heads).u(depth).u(width);
  };
  const dispatch = (batch: Batch, heads: number, width: number) =>
    recorder.dispatchGroups(batch.sequences * heads * Math.ceil(width / COLUMNS));

  return {
    ssmScan(out, x, dt, state, batch, options) {
      const { heads, headDim, groups, stateDim, start, decay, bias, skip, minStep, maxStep } = options;
      const planned = selective.fits ? undefined : plan(batch);
      recorder
        .start(selective.kernel(cellsOf(stateDim)))
        .bind(x)
        .bind(dt)
        .bind(decay)
        .bind(bias)
        .bind(skip);
      finish(planned, state, out, batch)
        .u(x.width)
        .u(dt.width)
        .u(start)
        .u(groups)
        .f(minStep)
        // Shaders may take infinities for anything.
        .f(Math.min(maxStep, 3e38));
      dispatch(batch, heads, headDim);
    },
    gatedDelta(out, x, gates, state, batch, options) {
      const { keyHeads, valueHeads, keyDim, valueDim, start, decay, bias, scale, eps, cyclic } = options;
      const planned = gated.fits ? undefined : plan(batch);
      recorder
        .start(gated.kernel(cellsOf(keyDim)))
        .bind(x)
        .bind(gates)
        .bind(decay)
        .bind(bias);
      finish(planned, state, out, batch)
        .u(x.width)
        .u(gates.width)
        .u(start)
        .u(keyHeads)
        .u(cyclic ? 1 : 0)
        .f(scale)
        .f(eps);
      dispatch(batch, valueHeads, valueDim);
    },
  };
}
