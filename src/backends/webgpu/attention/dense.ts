import type { DenseAttentionOptions, OptionalOps } from '../../../core/backend.ts';
import type { OpHost } from '../host.ts';
import { Kernel, type KernelSource } from '../kernel.ts';
import { flashSource, LOWEST, NOTHING, quad } from './flash.ts';
import { Plans } from './plans.ts';
import { prefillTiling, type Tiling } from './tiling.ts';

const number = (name: string) => [name, 'u32'] as const;

interface Plan {
  readonly kernel: Kernel;
  readonly masked: Kernel;
  readonly tiling: Tiling;
}

function sourceOf(options: DenseAttentionOptions, tiling: Tiling, masked: boolean): KernelSource {
  const { kvHeads, headDim, valueDim, causal, softcap } = options;
  return flashSource({
    label: 'attention dense',
    shape: options,
    tiling,
    reads: [['k', 'f32'], ['v', 'f32'], ...(masked ? ([['extra', 'u32']] as const) : [])],
    numbers: [number('rows'), number('keys'), number('by_head')],
    declarations: `
${quad('k', headDim)}
${quad('v', valueDim)}
fn key_quad(place: u32, d: u32) -> vec4<f32> { return k_quad(place * ${headDim}u, d); }
fn value_quad(place: u32, d: u32) -> vec4<f32> { return v_quad(place * ${valueDim}u, d); }
${
  masked
    ? `fn add_mask(s: f32, row: u32, head: u32, key: u32) -> f32 {
  let w = extra(head * p.by_head + min(row, p.rows - 1u) * p.keys + min(key, p.keys - 1u));
  if (w == 0xff800000u) { return ${NOTHING}; }
  return clamp(s + bitcast<f32>(w), ${LOWEST}, 3e38);
}`
    : ''
}`,
    locate: `
let first_row = wid.x * ${tiling.tileRows}u;
let row_count = min(${tiling.tileRows}u, p.rows - first_row);
let position = ${causal ? 'p.keys - p.rows + first_row' : 'p.keys'};
let end_key = ${causal ? 'position + row_count' : 'p.keys'};
let first_key = 0u;`,
    place: `key * ${kvHeads}u + kv`,
    visible: causal ? 'key <= position + row' : 'true',
    score: masked ? 'add_mask(s, first_row + row, min(head, first_head + head_count - 1u), key)' : 's',
    softcap: softcap !== undefined,
    sinks: false,
    splits: false,
  });
}

export function denseOps(host: OpHost): Pick<OptionalOps, 'denseAttention'> {
  const { recorder } = host;
  const plans = new Plans<DenseAttentionOptions, Plan>(
    ({ heads, kvHeads, headDim, valueDim, causal, softcap }) =>
      [heads, kvHeads, headDim, valueDim, causal === true, softcap !== undefined].join(),
    (options) => {
      const tiling = prefillTiling(host.gpu.facts, options);
      const kernel = (masked: boolean) => new Kernel(host.gpu, sourceOf(options, tiling, masked));
      return { kernel: kernel(false), masked: kernel(true), tiling };
    },
  );
  return {
    denseAttention(out, q, k, v, mask, options) {
      const { heads, kvHeads } = options;
      const plan = plans.of(options);
      const rows = q.shape[0] as number;
      const keys = k.shape[0] as number;
      recorder
        .start(mask ? plan.masked : plan.kernel)
        .bind(q)
        .bind(k)
        .bind(v);
      if (mask) recorder.bind(mask);
      recorder
        .bind(out)
        .f(options.scale)
        .f(options.softcap ?? 0)
        .u(rows)
        .u(keys)
        .u(mask && mask.size === heads * rows * keys ? rows * keys : 0)
        .dispatch(Math.ceil(rows / plan.tiling.tileRows), kvHeads * plan.tiling.headRuns);
      recorder.heavy();
    },
  };
}
