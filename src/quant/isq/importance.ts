/** Importance of the columns of a model's weights, from a file that names them as GGUF files or as modules do. */
import { ConfigError } from '../../core/errors.ts';
import { type GgufArch, hfName } from '../../core/io/ggufNames.ts';
import type { Weight } from '../../core/weight.ts';
import type { Imatrix } from '../imatrix.ts';
import { roleOf } from './plan.ts';

/** By weight of the model: a value per column, of stacked experts one expert after the other. */
export class Importance {
  /** The file, for messages. */
  readonly where: string;
  readonly #values: ReadonlyMap<string, Float32Array>;

  private constructor(where: string, values: ReadonlyMap<string, Float32Array>) {
    this.where = where;
    this.#values = values;
  }

  /** Of a file of llama.cpp; names are those of the GGUF form of the architecture. */
  static fromImatrix(imatrix: Imatrix, arch: GgufArch, where: string): Importance {
    const values = new Map<string, Float32Array>();
    for (const [name, entry] of imatrix.entries) values.set(hfName(arch, name) ?? name, entry.values);
    return new Importance(where, values);
  }

  /** By path of modules. */
  static fromModules(entries: ReadonlyMap<string, Float32Array>, where: string): Importance {
    return new Importance(where, new Map([...entries].map(([path, values]) => [`${path}.weight`, values])));
  }

  /**
   * The values for a weight of `rows` rows; `slab` is the expert where a part of a stack is meant.
   * @throws ConfigError when they do not belong to rows of `columns`, or not to those of experts below one another.
   */
  find(name: string, rows: number, columns: number, slab?: number): Float32Array | undefined {
    for (const [candidate, expert = slab] of namesFor(name)) {
      const values = this.#values.get(candidate);
      if (!values) continue;
      const experts = values.length / columns;
      if (experts === 1) return values;
      const stacked = roleOf(name) === 'expert' || PER_HEAD.test(name);
      if (!Number.isInteger(experts) || (expert === undefined && !(stacked && rows % experts === 0))) {
        // Some of its rows are kept as columns.
        if (CUT.test(name)) return undefined;
        throw new ConfigError(
          `${this.where}: ${candidate}: expected values for rows of ${columns}, got ${values.length}; it is of another model`,
        );
      }
      if (expert === undefined) return values;
      if (expert >= experts) {
        throw new ConfigError(`${this.where}: ${candidate}: expected more than ${expert} experts, got ${experts}`);
      }
      return values.slice(expert * columns, (expert + 1) * columns);
    }
    return undefined;
  }
}

/** Matrices that each head of latent attention has one of, and the one that both are cut out of. */
const PER_HEAD = /\.[kv]_b_proj\.weight$/;
const CUT = /\.kv_b_proj\.weight$/;

/** The modules of the experts of a weight, as files name them whatever the layout; `undefined` without experts. */
export function expertPaths(weight: Weight): readonly string[] | undefined {
  const { experts } = weight;
  if (!experts) return undefined;
  const path = /\.experts\.$/.test(experts.path) ? experts.path : `${experts.path}experts.`;
  return (experts.role === 'input' ? ['gate_proj', 'up_proj'] : ['down_proj']).map((part) => `${path}${part}`);
}

/** Names that a file may have for a weight: fused and separate, stacked and single, and which expert of a stack is meant. */
function* namesFor(name: string): Iterable<readonly [name: string, expert?: number]> {
  yield [name];
  const single = /^(.*experts)\.(\d+)\.(\w+)\.weight$/.exec(name);
  if (single) {
    const [, path, expert = '', part = ''] = single;
    yield [`${path}.${EXPERT_PARTS[part] ?? part}.weight`, Number(expert)];
    return;
  }
  const fused = /^(.*experts)\.(gate_up_proj|down_proj)(_blocks)?(\.weight)?$/.exec(name);
  if (fused) yield [`${fused[1]}.${EXPERT_PARTS[fused[2]!] ?? fused[2]}.weight`];
  const linear = /^(.*)\.(input|output)_linear\.weight$/.exec(name);
  if (linear) yield [`${linear[1]}.experts.${linear[2] === 'input' ? 'gate' : 'down'}_proj.weight`];
  const beside = /^(.*\.block_sparse_moe)\.((?:gate|up|down)_proj\.weight)$/.exec(name);
  if (beside) yield [`${beside[1]}.experts.${beside[2]}`];
  if (/\.(gate|up)_proj\.weight$/.test(name)) yield [name.replace(/(gate|up)_proj/, 'gate_up_proj')];
  if (/\.[qkv]_proj\.weight$/.test(name)) yield [name.replace(/[qkv]_proj/, 'qkv_proj')];
  if (/\.gate_up_proj\.weight$/.test(name)) yield [name.replace('gate_up_proj', 'gate_proj')];
  if (/\.qkv_proj\.weight$/.test(name)) yield [name.replace('qkv_proj', 'q_proj')];
}

const EXPERT_PARTS: Readonly<Record<string, string>> = {
  w1: 'gate_proj',
  w2: 'down_proj',
  w3: 'up_proj',
  gate_up_proj: 'gate_proj',
};
