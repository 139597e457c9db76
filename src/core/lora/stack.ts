/** Adapters that a model is loaded with for good, in a fixed order: for each weight their matrices lie below one another. */
import type { Backend } from '../backend.ts';
import type { Weight } from '../weight.ts';
import type { Codec, SourceTensor } from '../weights.ts';
import { adapterMatrices, devicePair, disposePair, placements } from './build.ts';
import type { LoraConfig } from './config.ts';
import type { DevicePair } from './delta.ts';
import { loraError } from './error.ts';
import { guarded } from './files.ts';
import { ModuleIndex } from './modules.ts';
import { bytesOf, type Factor, planAdapter, sumOfRanks, type WeightPlan } from './plan.ts';
import { DEFAULT_LORA_LIMITS } from './runtime.ts';

/** Whose a row of `down` is. */
export interface Owner {
  readonly adapter: number;
  /** As the adapter's file names it. */
  readonly module: string;
}

export interface StackedAdapters {
  readonly weight: Weight;
  readonly pair: DevicePair;
  /** By row of `down`; experts with fewer rows than others end with rows of nobody. */
  readonly owners: readonly (Owner | undefined)[];
}

export interface StackParts {
  readonly backend: Backend;
  readonly weights: Iterable<Weight>;
  readonly codec: Codec;
  /** Multiplies what the adapters add. */
  readonly scale: number;
}

type Adapter = { readonly config: LoraConfig; readonly tensors: ReadonlyMap<string, SourceTensor> };

/** Puts all adapters on the device. Throws `LoraAdapterError`; everything taken is given back then. */
export async function stackAdapters(adapters: readonly Adapter[], parts: StackParts): Promise<StackedAdapters[]> {
  const modules = new ModuleIndex(parts.weights);
  const byWeight = new Map<Weight, Factor[]>();
  const adapterOf = new Map<Factor, number>();
  for (const [adapter, { config, tensors }] of adapters.entries()) {
    for (const { weight, factors } of planAdapter(tensors, config, modules, DEFAULT_LORA_LIMITS.maxRank).weights) {
      const list = byWeight.get(weight) ?? [];
      byWeight.set(weight, list);
      for (const factor of factors) {
        const scaled = { ...factor, scale: factor.scale * parts.scale };
        adapterOf.set(scaled, adapter);
        list.push(scaled);
      }
    }
  }
  const plans = [...byWeight].map(([weight, factors]) => ({ weight, factors, rank: sumOfRanks(weight, factors) }));
  const bytes = plans.reduce((n, plan) => n + bytesOf(plan), 0);
  if (bytes > DEFAULT_LORA_LIMITS.maxBytes) {
    throw loraError(
      'byte_limit',
      `adapters: expected at most ${DEFAULT_LORA_LIMITS.maxBytes} bytes of all, got ${bytes}`,
    );
  }
  const stacks: StackedAdapters[] = [];
  try {
    for (const plan of plans) {
      const { weight } = plan;
      const matrices = await guarded('format', weight.name, () => adapterMatrices(plan, parts.codec));
      const pair = await devicePair(parts.backend, `${weight.name}: adapters`, plan, matrices);
      stacks.push({ weight, pair, owners: ownersOf(plan, adapterOf) });
    }
    return stacks;
  } catch (error) {
    for (const { pair } of stacks) disposePair(pair);
    throw error;
  }
}

function ownersOf(plan: WeightPlan, adapterOf: ReadonlyMap<Factor, number>): (Owner | undefined)[] {
  const owners = new Array<Owner | undefined>((plan.weight.experts?.count ?? 1) * plan.rank).fill(undefined);
  for (const { factor, expert, at } of placements(plan)) {
    const owner = { adapter: adapterOf.get(factor)!, module: factor.module };
    owners.fill(owner, expert * plan.rank + at, expert * plan.rank + at + factor.rank);
  }
  return owners;
}
