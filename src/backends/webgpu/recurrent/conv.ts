import type { OptionalOps } from '../../../core/backend.ts';
import { kernels, lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { FUNCTIONS, ITEM, LANES } from '../wgsl.ts';
import { bindBatch, DIRECT } from './sequences.ts';

const numbers = (first: string) =>
  [
    ['n', 'u32'],
    [first, 'u32'],
    ['channels', 'u32'],
    ['kernel', 'u32'],
    ['width', 'u32'],
    ['start', 'u32'],
  ] as const;

const BIASED = 1;
const SILU = 2;

/** One lane for every channel of every row. Inputs before the sequence's first row are those that its state holds. */
function convSource(bits: number): KernelSource {
  return {
    label: `causal convolution ${bits}`,
    reads: [
      ['x', 'f32'],
      ['w', 'f32'],
      ...(bits & BIASED ? ([['bias', 'f32']] as const) : []),
      ...DIRECT.reads,
      ['past', 'f32'],
    ],
    writes: [['out', 'f32']],
    numbers: numbers('sequences'),
    workgroup: [LANES, 1, 1],
    declarations: DIRECT.code + (bits & SILU ? FUNCTIONS : ''),
    body: `${ITEM}
if (item >= p.n) { return; }
let row = item / p.channels;
let c = item % p.channels;
var s = 0u;
var beyond = p.sequences;
while (beyond - s > 1u) {
  let middle = (s + beyond) / 2u;
  if (u32(seq_start(middle)) <= row) { s = middle; } else { beyond = middle; }
}
let rows = rows_of(s);
var sum = ${bits & BIASED ? 'bias(c)' : '0.0'};
let tail = rows.z * (p.kernel - 1u) * p.channels + c;
for (var j = 0u; j < p.kernel; j++) {
  // The input's row, counted from the first that the state holds.
  let t = row - rows.x + j;
  var v = 0.0;
  if (t + 1u >= p.kernel) { v = x((rows.x + t + 1u - p.kernel) * p.width + p.start + c); }
  else if (rows.w != 0u) { v = past(tail + t * p.channels); }
  sum = fma(w(j * p.channels + c), v, sum);
}
set_out(item, ${bits & SILU ? 'sum * sigmoid(sum)' : 'sum'});`,
  };
}

/** One lane for every channel of every sequence keeps the last inputs. Rising: an entry is read before it is overwritten. */
const tailSource = (): KernelSource => ({
  label: 'last inputs',
  reads: [['x', 'f32'], ...DIRECT.reads],
  writes: [['past', 'f32']],
  numbers: numbers('unused'),
  workgroup: [LANES, 1, 1],
  declarations: DIRECT.code,
  body: `${ITEM}
if (item >= p.n) { return; }
let c = item % p.channels;
let rows = rows_of(item / p.channels);
let count = rows.y - rows.x;
let kept = p.kernel - 1u;
let tail = rows.z * kept * p.channels + c;
for (var j = 0u; j < kept && count > 0u; j++) {
  let t = count + j;
  var v = 0.0;
  if (t >= kept) { v = x((rows.x + t - kept) * p.width + p.start + c); }
  else if (rows.w != 0u) { v = past(tail + t * p.channels); }
  set_past(tail + j * p.channels, v);
}`,
});

export function convOps(host: OpHost): Required<Pick<OptionalOps, 'causalConv'>> {
  const { recorder } = host;
  const convolutions = kernels(host, convSource);
  const tails = lazy(host, tailSource);
  return {
    causalConv(out, x, w, state, batch, { start, bias, silu }) {
      const [kernel, channels] = w.shape as [number, number];
      const n = batch.rows * channels;
      recorder
        .start(convolutions((bias ? BIASED : 0) | (silu ? SILU : 0)))
        .bind(x)
        .bind(w);
      if (bias) recorder.bind(bias);
      bindBatch(recorder, batch).bind(state).bind(out);
      recorder.u(n).u(batch.sequences).u(channels).u(kernel).u(x.width).u(start).dispatchItems(n, LANES);
      if (kernel === 1) return;
      bindBatch(recorder.start(tails()).bind(x), batch).bind(state);
      const items = batch.sequences * channels;
      recorder.u(items).u(0).u(channels).u(kernel).u(x.width).u(start).dispatchItems(items, LANES);
    },
  };
}
