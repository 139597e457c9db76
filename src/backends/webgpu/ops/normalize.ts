import type { Activation, NormOptions, OptionalOps, RopeOptions } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import { kernels, lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { reduction } from '../reduction.ts';
import { activationFunction, ITEM, LANES } from '../wgsl.ts';

/** Rows from this width on are shared by more lanes. */
const WIDE = 1024;
const WIDE_LANES = 256;
const lanesOf = (wide: boolean) => (wide ? WIDE_LANES : LANES);

/** Bits that tell the kernels of one family apart. */
const CENTERED = 1;
const WEIGHTED = 2;
const BIASED = 4;
const ADDED = 8;
const WIDELY = 16;

/** Each workgroup normalises one of `parts` runs of `n` entries; `p.plane` neighbours share a weight. */
function normSource(host: OpHost, bits: number): KernelSource {
  const has = (bit: number) => (bits & bit) !== 0;
  const lanes = lanesOf(has(WIDELY));
  const { declarations, extensions, sum } = reduction(host.gpu.facts, lanes);
  const loop = (body: string) => `for (var i = li; i < p.n; i += ${lanes}u) { ${body} }`;
  const from = has(ADDED) ? 'residual' : 'x';
  const reads = ['x', ...(has(WEIGHTED) ? ['weight'] : []), ...(has(BIASED) ? ['bias'] : [])];
  return {
    label: `norm ${bits}`,
    reads: reads.map((name) => [name, 'f32'] as const),
    writes: [...(has(ADDED) ? ([['residual', 'f32']] as const) : []), ['out', 'f32']],
    numbers: [
      ['parts', 'u32'],
      ['n', 'u32'],
      ['groups', 'u32'],
      ['plane', 'u32'],
      ['divisor', 'f32'],
      ['eps', 'f32'],
      ['one', 'f32'],
    ],
    workgroup: [lanes, 1, 1],
    declarations,
    extensions,
    body: `
let part = wid.y * nwg.x + wid.x;
if (part >= p.parts) { return; }
let start = part * p.n;
${has(ADDED) ? loop('set_residual(start + i, residual(start + i) + x(start + i));') : ''}
var mean = 0.0;
${
  has(CENTERED)
    ? `var total = 0.0;
${loop(`total += ${from}(start + i);`)}
mean = ${sum('total')} / f32(p.n);`
    : ''
}
var power = 0.0;
${loop(`let v = ${from}(start + i) - mean; power = fma(v, v, power);`)}
let scale = 1.0 / sqrt(${sum('power')} / p.divisor + p.eps);
let first = (part % p.groups) * (p.n / p.plane);
${loop(`
  var v = (${from}(start + i) - mean) * scale;
  ${has(WEIGHTED) ? 'v *= weight(first + i / p.plane) + p.one;' : ''}
  ${has(BIASED) ? 'v += bias(first + i / p.plane);' : ''}
  set_out(start + i, v);`)}`,
  };
}

const WITH_MASK = 1;
const SOFTMAX_WIDE = 2;

/** Masked-out entries are told by their bits, since shaders may assume that infinities do not occur. */
function softmaxSource(host: OpHost, bits: number): KernelSource {
  const masked = (bits & WITH_MASK) !== 0;
  const lanes = lanesOf((bits & SOFTMAX_WIDE) !== 0);
  const { declarations, extensions, sum, max } = reduction(host.gpu.facts, lanes);
  return {
    label: `softmax ${bits}`,
    reads: [['x', 'u32'], ...(masked ? ([['extra', 'u32']] as const) : [])],
    writes: [['out', 'u32']],
    numbers: [
      ['rows', 'u32'],
      ['width', 'u32'],
      ['scale', 'f32'],
      ['extras', 'u32'],
    ],
    workgroup: [lanes, 1, 1],
    declarations: `${declarations}
const NOTHING = -3.4e38;
fn logit(at: u32) -> f32 {
  let w = x(at);
  if (w == 0xff800000u) { return NOTHING; }
  ${
    masked
      ? `let m = extra(at % p.extras);
  if (m == 0xff800000u) { return NOTHING; }
  return clamp(bitcast<f32>(w) * p.scale + bitcast<f32>(m), -3e38, 3e38);`
      : 'return clamp(bitcast<f32>(w) * p.scale, -3e38, 3e38);'
  }
}`,
    extensions,
    body: `
let row = wid.y * nwg.x + wid.x;
if (row >= p.rows) { return; }
let start = row * p.width;
var most = NOTHING;
for (var i = li; i < p.width; i += ${lanes}u) { most = max(most, logit(start + i)); }
let peak = ${max('most')};
var some = 0.0;
for (var i = li; i < p.width; i += ${lanes}u) { some += exp(logit(start + i) - peak); }
let total = ${sum('some')};
for (var i = li; i < p.width; i += ${lanes}u) {
  set_out(start + i, bitcast<u32>(select(exp(logit(start + i) - peak) / total, 0.0, peak <= -3.2e38)));
}`,
  };
}

const ACTIVATIONS: readonly Activation[] = ['silu', 'gelu', 'geluTanh', 'geluQuick', 'relu', 'relu2'];
const CLAMPED = ACTIVATIONS.length;

function gluSource(kind: number): KernelSource {
  const clamped = kind === CLAMPED;
  return {
    label: clamped ? 'glu clamped' : `glu ${ACTIVATIONS[kind]}`,
    reads: [['x', 'f32']],
    writes: [['out', 'f32']],
    numbers: [
      ['n', 'u32'],
      ['width', 'u32'],
      ['step', 'u32'],
      ['gap', 'u32'],
      ['alpha', 'f32'],
      ['limit', 'f32'],
    ],
    workgroup: [LANES, 1, 1],
    declarations: activationFunction(ACTIVATIONS[clamped ? 0 : kind] as Activation),
    body: `${ITEM}
if (item >= p.n) { return; }
let at = item / p.width * 2u * p.width + item % p.width * p.step;
let gate = x(at);
let up = x(at + p.gap);
${
  clamped
    ? `let g = min(gate, p.limit);
set_out(item, g * sigmoid(p.alpha * g) * (clamp(up, -p.limit, p.limit) + 1.0));`
    : 'set_out(item, activation(gate) * up);'
}`,
  };
}

/** One lane for each pair that rotates. */
const ropeSource = (): KernelSource => ({
  label: 'rope',
  reads: [['table', 'f32']],
  writes: [['x', 'f32']],
  numbers: [
    ['n', 'u32'],
    ['half', 'u32'],
    ['heads', 'u32'],
    ['head_dim', 'u32'],
    ['step', 'u32'],
    ['gap', 'u32'],
  ],
  workgroup: [LANES, 1, 1],
  body: `${ITEM}
if (item >= p.n) { return; }
let pair = item % p.half;
let head = item / p.half;
let angle = head / p.heads * 2u * p.half + pair;
let cosine = table(angle);
let sine = table(angle + p.half);
let first = head * p.head_dim + pair * p.step;
let a = x(first);
let b = x(first + p.gap);
set_x(first, a * cosine - b * sine);
set_x(first + p.gap, b * cosine + a * sine);`,
});

/** How far apart the numbers of a pair lie, and the first ones of neighbouring pairs. */
export const pairStep = (rope: RopeOptions) => (rope.interleaved ? 2 : 1);
export const pairGap = (rope: RopeOptions) => (rope.interleaved ? 1 : rope.rotaryDim / 2);

export function normalizeOps(host: OpHost): Pick<OptionalOps, 'norm' | 'addNorm' | 'softmax' | 'glu' | 'rope'> {
  const { recorder } = host;
  const norms = kernels(host, (bits: number) => normSource(host, bits));
  const softmaxes = kernels(host, (bits: number) => softmaxSource(host, bits));
  const glus = kernels(host, gluSource);
  const rotation = lazy(host, ropeSource);

  function norm(out: Tensor, x: Tensor, residual: Tensor | undefined, options: NormOptions): void {
    const { kind, weight, bias, groups = 1 } = options;
    const byChannel = kind === 'group';
    const outer = byChannel ? (x.shape[0] as number) : x.rowCount;
    const channels = byChannel ? (x.shape[1] as number) : x.width;
    const n = x.size / (outer * groups);
    const bits =
      (kind === 'layer' || byChannel ? CENTERED : 0) |
      (weight ? WEIGHTED : 0) |
      (bias ? BIASED : 0) |
      (residual ? ADDED : 0) |
      (n >= WIDE ? WIDELY : 0);
    recorder.start(norms(bits)).bind(x);
    if (weight) recorder.bind(weight);
    if (bias) recorder.bind(bias);
    if (residual) recorder.bind(residual);
    recorder
      .bind(out)
      .u(outer * groups)
      .u(n)
      .u(groups)
      .u((n * groups) / channels)
      .f(kind === 'l2' ? 1 : n)
      .f(options.eps)
      .f(options.plusOne ? 1 : 0)
      .dispatchGroups(outer * groups);
  }

  return {
    norm: (out, x, options) => norm(out, x, undefined, options),
    addNorm: (out, residual, x, options) => norm(out, x, residual, options),
    softmax(out, x, scale, mask) {
      const bits = (mask ? WITH_MASK : 0) | (x.width >= WIDE ? SOFTMAX_WIDE : 0);
      recorder.start(softmaxes(bits)).bind(x);
      if (mask) recorder.bind(mask);
      recorder
        .bind(out)
        .u(x.rowCount)
        .u(x.width)
        .f(scale)
        .u(mask ? mask.size : 1)
        .dispatchGroups(x.rowCount);
    },
    glu(out, x, { activation, clamped, interleaved }) {
      recorder
        .start(glus(clamped ? CLAMPED : ACTIVATIONS.indexOf(activation)))
        .bind(x)
        .bind(out)
        .u(out.size)
        .u(out.width)
        .u(interleaved ? 2 : 1)
        .u(interleaved ? 1 : out.width)
        .f(clamped?.alpha ?? 0)
        .f(clamped?.limit ?? 0)
        .dispatchItems(out.size, LANES);
    },
    rope(x, cosSin, options) {
      const half = options.rotaryDim / 2;
      if (half === 0) return;
      const heads = x.width / options.headDim;
      const pairs = x.rowCount * heads * half;
      recorder
        .start(rotation())
        .bind(cosSin)
        .bind(x)
        .u(pairs)
        .u(half)
        .u(heads)
        .u(options.headDim)
        .u(pairStep(options))
        .u(pairGap(options))
        .dispatchItems(pairs, LANES);
    },
  };
}
