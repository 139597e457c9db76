/** Layers of routed experts: a router, the experts it chooses, and those that every row passes. */
import type { Activation } from '../../core/backend.ts';
import type { Mixer } from '../../core/model.ts';
import { addInto, linear, mulInto, unaryInto } from '../../core/ops.ts';
import type { Weights } from '../../core/weights.ts';
import type { ExpertsSpec } from './experts.ts';
import { routedExperts } from './experts.ts';
import { projection } from './linear.ts';
import { gatedMlp } from './mlp.ts';
import type { Routing } from './router.ts';
import { router } from './router.ts';

export interface MoeSpec extends Routing, Omit<ExpertsSpec, 'glu'> {
  /** Of plain gated experts, in place of `glu`. */
  readonly activation: Activation;
  readonly glu?: ExpertsSpec['glu'] | undefined;
  /** Name of the router's matrix, without `.weight`; `gate` when absent. */
  readonly gate?: string | undefined;
  /** Whether the router has a bias; it has none when absent. */
  readonly gateBias?: boolean | undefined;
  /** Where the experts lie; `experts` when absent, the cursor itself when empty. */
  readonly at?: string | undefined;
  /** A gated MLP beside the experts; `gated` names a row whose sigmoid weighs it. */
  readonly shared?:
    | {
        readonly name: string;
        readonly intermediate: number;
        readonly gated?: string | undefined;
        readonly bias?: boolean | undefined;
      }
    | undefined;
}

/** `x → Σ weight · expert(x) (+ shared(x))`. Only chosen experts are computed. */
export function moe(w: Weights, m: MoeSpec): Mixer {
  const { hidden, activation, shared: s } = m;
  const route = router(projection(w, [{ name: m.gate ?? 'gate', rows: m.experts }], hidden, m.gateBias ?? false), m);
  const experts = routedExperts(m.at === '' ? w : w.at(m.at ?? 'experts'), { ...m, glu: m.glu ?? { activation } });
  const shared =
    s && gatedMlp(w.at(s.name), { hidden, activation, intermediate: s.intermediate, bias: s.bias ?? false });
  const weigher = s?.gated === undefined ? undefined : projection(w, [{ name: s.gated, rows: 1 }], hidden, false);
  return (x, step, residual) => {
    const routed = experts(x, route(x));
    const out = residual ? addInto(residual, routed) : routed;
    if (!shared) return out;
    if (!weigher) return shared(x, step, out);
    const own = shared(x, step);
    return addInto(out, mulInto(own, unaryInto('sigmoid', linear(x, weigher.weight))));
  };
}
