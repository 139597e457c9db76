import type { BinaryKind, RequiredOps, UnaryKind } from '../../../core/backend.ts';
import type { DType } from '../../../core/dtype.ts';
import { broadcastOf } from '../../../core/ops/elementwise.ts';
import { kernels, lazy, type OpHost } from '../host.ts';
import type { Kernel, KernelSource } from '../kernel.ts';
import { BINARY, CONVERSIONS, FUNCTIONS, ITEM, LANES, SOFTPLUS_REST, UNARY } from '../wgsl.ts';

/** `item` of `p.n`, one lane each. */
function each(
  label: string,
  reads: readonly string[],
  rest: Partial<KernelSource> & { readonly body: string },
): KernelSource {
  return {
    label,
    reads: reads.map((name) => [name, 'f32'] as const),
    writes: [['out', 'f32']],
    numbers: [['n', 'u32']],
    workgroup: [LANES, 1, 1],
    ...rest,
    body: `${ITEM}
if (item >= p.n) { return; }
${rest.body}`,
  };
}

const unarySource = (kind: UnaryKind): KernelSource =>
  each(`unary ${kind}`, ['x'], {
    numbers: [
      ['n', 'u32'],
      ['a', 'f32'],
      ['b', 'f32'],
    ],
    declarations: `${FUNCTIONS}${SOFTPLUS_REST}
fn apply(x: f32) -> f32 { return ${UNARY[kind]}; }`,
    body: 'set_out(item, apply(x(item)));',
  });

/** Where `y` lies for `item`: `item / p.by % p.rows` covers all the ways in which it repeats. */
const binarySource = (kind: BinaryKind): KernelSource =>
  each(`binary ${kind}`, ['x', 'y'], {
    numbers: [
      ['n', 'u32'],
      ['by', 'u32'],
      ['modulo', 'u32'],
    ],
    declarations: `
fn power(x: f32, y: f32) -> f32 {
  if (x == 0.0) { return select(0.0, 1.0, y == 0.0); }
  let odd = floor(y) == y && floor(y * 0.5) != y * 0.5;
  return select(1.0, -1.0, x < 0.0 && odd) * pow(abs(x), y);
}
fn apply(x: f32, y: f32) -> f32 { return ${BINARY[kind]}; }`,
    body: 'set_out(item, apply(x(item), y(item / p.by % p.modulo)));',
  });

/** Words as numbers, numbers as words; floats are exact there, integers below 2²⁴. */
const DECODE: Readonly<Record<DType, string>> = {
  f32: 'bitcast<f32>(w)',
  i32: 'f32(bitcast<i32>(w))',
  u8: 'f32(w)',
  f16: 'half_to_float(w)',
  bf16: 'bitcast<f32>(w << 16u)',
};

const ENCODE: Readonly<Record<DType, string>> = {
  f32: 'bitcast<u32>(v)',
  i32: 'bitcast<u32>(to_i32(v))',
  u8: 'u32(clamp(v, 0.0, 255.0))',
  f16: 'float_to_half(v)',
  bf16: 'float_to_bf16(v)',
};

const castSource = (from: DType, to: DType): KernelSource => ({
  ...each(`cast ${from} to ${to}`, [], {
    declarations: `${CONVERSIONS}
fn decode(w: u32) -> f32 { return ${DECODE[from]}; }
fn encode(v: f32) -> u32 { return ${ENCODE[to]}; }`,
    body: from === to ? 'set_out(item, x(item));' : 'set_out(item, encode(decode(x(item))));',
  }),
  reads: [['x', 'u32']],
  writes: [['out', 'u32']],
});

export function elementwiseOps(host: OpHost): Pick<RequiredOps, 'unary' | 'binary' | 'select' | 'cast'> {
  const { recorder } = host;
  const unaries = kernels(host, unarySource);
  const binaries = kernels(host, binarySource);
  const choice = lazy(host, () =>
    each('select', ['condition', 'x', 'y'], {
      body: 'if (condition(item) != 0.0) { set_out(item, x(item)); } else { set_out(item, y(item)); }',
    }),
  );
  const casts = new Map<DType, (to: DType) => Kernel>();
  const castOf = (from: DType, to: DType): Kernel => {
    let targets = casts.get(from);
    if (targets === undefined) {
      targets = kernels(host, (target: DType) => castSource(from, target));
      casts.set(from, targets);
    }
    return targets(to);
  };
  return {
    unary(kind, out, x, a, b) {
      recorder.start(unaries(kind)).bind(x).bind(out).u(out.size).f(a).f(b).dispatchItems(out.size, LANES);
    },
    binary(kind, out, x, y) {
      const how = broadcastOf(x, y);
      const by = how === 'column' ? x.width : 1;
      recorder
        .start(binaries(kind))
        .bind(x)
        .bind(y)
        .bind(out)
        .u(out.size)
        .u(by)
        .u(y.size)
        .dispatchItems(out.size, LANES);
    },
    select(out, condition, x, y) {
      recorder.start(choice()).bind(condition).bind(x).bind(y).bind(out).u(out.size).dispatchItems(out.size, LANES);
    },
    cast(out, x) {
      recorder.start(castOf(x.dtype, out.dtype)).bind(x).bind(out).u(out.size).dispatchItems(out.size, LANES);
    },
  };
}
