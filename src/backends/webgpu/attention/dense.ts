import type { DenseAttentionOptions, OptionalOps } from '../../../core/backend.ts';
import type { OpHost } from '../host.ts';
import { Kernel, type KernelSource } from '../kernel.ts';
import { flashSource, LOWEST, NOTHING, number, putNumbers, quad } from './flash.ts';
import { Plans } from './plans.ts';
import { prefillTiling, type Sharing, sharingOf, type Tiling } from './tiling.ts';

interface Plan {
  readonly kernel: Kernel;
  readonly sharing: Sharing;
}

/** Keys and values as they come, and a mask by words: minus infinity is told by its bits. */
const sourceOf = (tiling: Tiling): KernelSource =>
  flashSource({
    label: 'attention dense',
    tiling,
    reads: [
      ['k', 'f32'],
      ['v', 'f32'],
      ['extra', 'u32'],
    ],
    numbers: ['kv_heads', 'rows', 'keys', 'causal', 'masked', 'by_head'].map(number),
    declarations: `
${quad('k', 'p.dim')}
${quad('v', 'p.value_dim')}
fn key_quad(place: u32, d: u32) -> vec4<f32> { return k_entries(place * p.dim, d); }
fn value_quad(place: u32, d: u32) -> vec4<f32> { return v_entries(place * p.value_dim, d); }
fn with_mask(s: f32, row: u32, head: u32, key: u32) -> f32 {
  if (p.masked == 0u || row >= p.rows || head >= p.heads || key >= p.keys) { return s; }
  let w = extra(head * p.by_head + row * p.keys + key);
  if (w == 0xff800000u) { return ${NOTHING}; }
  return clamp(s + bitcast<f32>(w), ${LOWEST}, 3e38);
}`,
    locate: `
let first_row = wid.x * p.tile_rows;
let row_count = min(p.tile_rows, p.rows - first_row);
let position = select(p.keys, p.keys - p.rows + first_row, p.causal != 0u);
let end_key = min(p.keys, position + row_count);
let first_key = 0u;`,
    place: 'key * p.kv_heads + kv',
    visible: 'key <= position + row',
    score: 'with_mask(s, first_row + row, head, key)',
    splits: false,
  });

export function denseOps(host: OpHost): Pick<OptionalOps, 'denseAttention'> {
  const { recorder } = host;
  const made = new Map<string, Kernel>();
  const plans = new Plans<DenseAttentionOptions, Plan>((options) => {
    const tiling = prefillTiling(host.gpu.facts, options);
    const key = JSON.stringify(tiling);
    const kernel = made.get(key) ?? new Kernel(host.gpu, sourceOf(tiling));
    made.set(key, kernel);
    return { kernel, sharing: sharingOf(tiling, options) };
  });
  return {
    denseAttention(out, q, k, v, mask, options) {
      const { heads, kvHeads } = options;
      const { kernel, sharing } = plans.of(options, 0);
      const rows = q.shape[0] as number;
      const keys = k.shape[0] as number;
      recorder
        .start(kernel)
        .bind(q)
        .bind(q)
        .bind(k)
        .bind(v)
        .bind(mask ?? q)
        .bind(out);
      putNumbers(recorder, options, sharing);
      recorder
        .u(kvHeads)
        .u(rows)
        .u(keys)
        .u(options.causal ? 1 : 0)
        .u(mask ? 1 : 0)
        .u(mask && mask.size === heads * rows * keys ? rows * keys : 0)
        .dispatch(Math.ceil(rows / sharing.tileRows), kvHeads * sharing.runs);
      recorder.heavy();
    },
  };
}
