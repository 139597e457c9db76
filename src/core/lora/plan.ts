/** What an adapter adds to each weight, checked against the model before any matrix is read. */
import type { Weight } from '../weight.ts';
import type { SourceTensor } from '../weights.ts';
import { isHead, type LoraConfig } from './config.ts';
import { loraError } from './error.ts';
import type { ModuleIndex, Place } from './modules.ts';

/** `a` `[rank, in]` and `b` `[out, rank]` of one module; fused experts have those of all of them in one. */
export interface Factor {
  /** As the file names it. */
  readonly module: string;
  readonly a: SourceTensor;
  readonly b: SourceTensor;
  readonly rank: number;
  readonly scale: number;
  readonly place: Place;
  /** Fused experts: the file has the matrices of every expert. `swapped`: `a` and `b` are those of the transposed matrix. */
  readonly fused?: { readonly swapped: boolean } | undefined;
}

/** All an adapter adds to one weight. `rank`: sum of the ranks; of routed experts the largest sum of one. */
export interface WeightPlan {
  readonly weight: Weight;
  readonly factors: readonly Factor[];
  readonly rank: number;
}

export interface AdapterPlan {
  readonly weights: readonly WeightPlan[];
  /** Largest rank of a module. */
  readonly rank: number;
  /** Device memory of all matrices. */
  readonly bytes: number;
}

const PREFIX = /^base_model\.model\./;
const ROLE = /^(.*)\.lora_([AB])(?:\.default)?\.weight$/;
const BYTES = 4;

/** Throws `LoraAdapterError`: `format` for a file that is not of this model, `rank_limit`. */
export function planAdapter(
  tensors: ReadonlyMap<string, SourceTensor>,
  config: LoraConfig,
  modules: ModuleIndex,
  maxRank: number,
): AdapterPlan {
  if (config.maxRank > maxRank) tooLarge(config.maxRank, maxRank);
  const pairs = pairsOf(tensors);
  if (pairs.size === 0) throw loraError('format', 'adapter: expected pairs of lora_A and lora_B, got none');
  const byWeight = new Map<Weight, Factor[]>();
  let rank = 0;
  for (const [module, { a, b }] of pairs) {
    for (const factor of factorsOf(module, matrixOf(a), matrixOf(b), config, modules)) {
      rank = Math.max(rank, factor.rank);
      const list = byWeight.get(factor.place.weight);
      if (list) list.push(factor);
      else byWeight.set(factor.place.weight, [factor]);
    }
  }
  if (rank > maxRank) tooLarge(rank, maxRank);
  const weights = [...byWeight].map(([weight, factors]) => ({ weight, factors, rank: sumOfRanks(weight, factors) }));
  const bytes = weights.reduce((n, w) => n + bytesOf(w), 0);
  return { weights, rank, bytes };
}

export function bytesOf({ weight, rank }: WeightPlan): number {
  return BYTES * rank * ((weight.experts?.count ?? 1) * weight.shape[1] + weight.shape[0]);
}

export function sumOfRanks(weight: Weight, factors: readonly Factor[]): number {
  if (!weight.experts) return factors.reduce((n, f) => n + f.rank, 0);
  let fused = 0;
  const each = new Map<number, number>();
  for (const f of factors) {
    if (f.place.expert === undefined) fused += f.rank;
    else each.set(f.place.expert, (each.get(f.place.expert) ?? 0) + f.rank);
  }
  return fused + Math.max(0, ...each.values());
}

function pairsOf(tensors: ReadonlyMap<string, SourceTensor>) {
  const pairs = new Map<string, { a?: SourceTensor; b?: SourceTensor }>();
  for (const [name, tensor] of tensors) {
    const found = ROLE.exec(name.replace(PREFIX, ''));
    if (!found) {
      throw loraError('format', `adapter: expected lora_A and lora_B of linear modules only, got ${quote(name)}`);
    }
    const module = found[1]!;
    if (isHead(module))
      throw loraError('format', `adapter: expected no embedding and no output head, got ${quote(name)}`);
    const pair = pairs.get(module) ?? {};
    pairs.set(module, pair);
    pair[found[2] === 'A' ? 'a' : 'b'] = tensor;
  }
  const whole = new Map<string, { readonly a: SourceTensor; readonly b: SourceTensor }>();
  for (const [module, { a, b }] of pairs) {
    if (!a || !b)
      throw loraError('format', `adapter: ${quote(module)}: expected lora_A and lora_B, got only one of them`);
    whole.set(module, { a, b });
  }
  return whole;
}

function factorsOf(
  module: string,
  a: SourceTensor,
  b: SourceTensor,
  config: LoraConfig,
  modules: ModuleIndex,
): readonly Factor[] {
  const places = modules.find(module);
  if (places.length === 0) return [expertFactor(module, a, b, config, modules)];
  const { weight, expert } = places[0]!;
  if (!config.targets(module) && !config.parameters.some((p) => endsWith(`${module}.weight`, p))) untargeted(module);
  const rank = a.shape[0]!;
  // Every part of a module takes rows of one matrix: the largest of them says how many it has at least.
  const rows = places.reduce((n, p) => p.runs.reduce((m, [first, count]) => Math.max(m, first + count), n), 0);
  const [width, out] = [weight.shape[1], b.shape[0]!];
  if (a.shape[1] !== width || b.shape[1] !== rank || out !== rows) {
    wrong(module, `[r, ${width}] and [${rows}, r]`, a, b);
  }
  checkRank(module, rank, config.rankOf(module));
  const scale = config.scaleOf(module, rank);
  return places.map((place) => ({ module, a, b, rank, scale, place: { ...place, expert } }));
}

/** A matrix of all experts at once. Which one, its shape says: wrappers of several have numbered names only. */
function expertFactor(
  name: string,
  a: SourceTensor,
  b: SourceTensor,
  config: LoraConfig,
  modules: ModuleIndex,
): Factor {
  const bare = name.replace(/(\.base_layer)+$/, '');
  // Experts in modules of their own, with one parameter "weight" each.
  const own = /^(.*)\.(input_linear|output_linear)$/.exec(bare);
  const module = own?.[1] ?? bare;
  const stacks = modules.stacks(module);
  if (stacks.length === 0) {
    throw loraError('format', `adapter: expected modules of the model, got ${quote(name)}; is it for another model?`);
  }
  for (const swapped of [false, true]) {
    for (const weight of stacks) {
      const { count, role } = weight.experts!;
      const [out, width] = [weight.shape[0] / count, weight.shape[1]];
      const [rows, columns] = swapped ? [width, out] : [out, width];
      if (a.shape[1] !== columns || b.shape[0] !== rows) continue;
      const names = role === 'input' ? ['gate_up_proj', 'input_linear'] : ['down_proj', 'output_linear'];
      const parameter = names.find((n) =>
        config.parameters.some((p) => endsWith(`${module}.${n}`, p.replace(/\.weight$/, ''))),
      );
      if (parameter === undefined) continue;
      const rank = a.shape[0]! / count;
      if (!Number.isInteger(rank) || rank < 1 || b.shape[1] !== rank * count) continue;
      checkRank(name, rank, config.rankOf(`${module}.${parameter}`));
      const scale = config.scaleOf(`${module}.${parameter}`, rank);
      return { module: name, a, b, rank, scale, place: { weight, first: 0, runs: [[0, out]] }, fused: { swapped } };
    }
  }
  const shapes = stacks.map(
    (w) => `[r × ${w.experts!.count}, ${w.shape[1]}] and [${w.shape[0] / w.experts!.count}, r × ${w.experts!.count}]`,
  );
  return wrong(name, `target_parameters of ${shapes.join(' or ')}`, a, b);
}

function checkRank(module: string, got: number, expected: number): void {
  if (got === expected) return;
  throw loraError('format', `adapter: ${quote(module)}: expected rank ${expected} as configured, got ${got}`);
}

function untargeted(module: string): never {
  throw loraError('format', `adapter: expected matrices of modules that target_modules names, got ${quote(module)}`);
}

function matrixOf(t: SourceTensor): SourceTensor {
  const float = ['F32', 'F16', 'BF16', 'F64'].includes(t.type.name);
  if (t.shape.length === 2 && float && t.shape.every((n) => n > 0)) return t;
  throw loraError('format', `adapter: ${quote(t.name)}: expected a matrix of floats, got ${t.type.name} [${t.shape}]`);
}

function endsWith(path: string, end: string): boolean {
  return path === end || path.endsWith(`.${end}`);
}

function wrong(module: string, expected: string, a: SourceTensor, b: SourceTensor): never {
  throw loraError('format', `adapter: ${quote(module)}: expected ${expected}, got [${a.shape}] and [${b.shape}]`);
}

function tooLarge(rank: number, maxRank: number): never {
  throw loraError('rank_limit', `adapter: expected a rank of at most ${maxRank}, got ${rank}; raise \`maxRank\``);
}

function quote(name: string): string {
  return JSON.stringify(name.slice(0, 200));
}
