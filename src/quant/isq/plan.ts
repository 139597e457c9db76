/** Which weights are quantized in place, and to what. */

import type { Topology } from './topology.ts';
import type { IsqBits, IsqType } from './types.ts';
import { fitting, promoted } from './types.ts';

export type { IsqBits, IsqType };

/** What was asked for. */
export interface IsqPlan {
  /** Of all weights that nothing else is said about; none: only what the topology names. */
  readonly type: IsqType | undefined;
  /** Routed experts alone, and nothing promoted. */
  readonly expertsOnly: boolean;
  readonly topology: Topology | undefined;
}

export type Role = 'linear' | 'expert' | 'sensitive' | 'other';

/** Matrices that choose experts, and tables of positions. */
const DENSE = /(^|\.)(gate|router|wg|shared_expert_gate|router\.(layer|proj)|wpe|embed_positions)\.weight$/;
const EXPERT = /(^|\.)experts\.|(^|\.)block_sparse_moe\.((input|output)_linear|(gate|up|down)_proj)\./;
/** Exact places: tables of other modalities have names like these further down. */
const SENSITIVE =
  /^((model|language_model|transformer|gpt_neox)\.)*(embed_tokens|embed_tokens_per_layer|wte|embed_in|lm_head|embed_out)\.weight$/;

export function roleOf(name: string): Role {
  if (EXPERT.test(name)) return 'expert';
  if (DENSE.test(name)) return 'other';
  return SENSITIVE.test(name) ? 'sensitive' : 'linear';
}

const TABLE = /(^|\.)(embed_tokens|embed_tokens_per_layer|wte|embed_in)\.weight$/;
const HEAD = /(^|\.)(lm_head|embed_out)\.weight$/;

/** Whether rows of a matrix are only looked up: an embedding that is not the output matrix, too. */
export function isTable(name: string, all: Iterable<string>): boolean {
  if (!TABLE.test(name)) return false;
  return name.endsWith('embed_tokens_per_layer.weight') || [...all].some((other) => HEAD.test(other));
}

/** The path of the module that a tensor, or a part of one, belongs to. */
export function moduleOf(name: string): string {
  return tensorOf(name).replace(/\.weight$/, '');
}

/** The name of the tensor that a part was cut out of. */
export function tensorOf(name: string): string {
  return name.replace(/(\[[\d,]*\])+$/, '');
}

/** The number of the layer that a weight belongs to. */
export function layerOf(name: string): number | undefined {
  const layer = /(?:^|\.)(?:layers|h|blocks)\.(\d+)\./.exec(name)?.[1];
  return layer === undefined ? undefined : Number(layer);
}

/** What is decided about one matrix. */
export interface Decision {
  readonly requested: IsqType;
  /** After pins and promotion. */
  readonly resolved: IsqType;
  /** After the fallback for the row length; `undefined`: it stays as it is stored. */
  readonly target: IsqType | undefined;
  readonly promoted: boolean;
  readonly pinned: boolean;
}

/** `undefined` for matrices that the plan does not touch. */
export function decide(plan: IsqPlan, name: string, columns: number): Decision | undefined {
  const role = roleOf(name);
  if (role === 'other') return undefined;
  const pin = plan.topology?.find(name, layerOf(name))?.isq;
  if (pin) {
    return { requested: pin, resolved: pin, target: fitting(pin, columns), promoted: false, pinned: true };
  }
  const { type } = plan;
  if (!type || (plan.expertsOnly && role !== 'expert')) return undefined;
  const resolved = role === 'sensitive' && !plan.expertsOnly ? promoted(type) : type;
  return { requested: type, resolved, target: fitting(resolved, columns), promoted: resolved !== type, pinned: false };
}
