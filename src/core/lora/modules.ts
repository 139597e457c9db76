/** From names in an adapter's file to rows of the model's weights. */
import type { RowRuns, Weight } from '../weight.ts';

/** Where the products of one module go. */
export interface Place {
  readonly weight: Weight;
  /** First of the rows of `weight` that are this module's, within one expert for routed ones. */
  readonly first: number;
  /** Rows of the module's matrix that stand there, in this order. */
  readonly runs: RowRuns;
  /** For a module of one routed expert. */
  readonly expert?: number | undefined;
}

/** All modules of a loaded model that adapters can change, by name. */
export class ModuleIndex {
  /** `undefined` for names that several modules have. */
  readonly #places = new Map<string, Place[]>();
  readonly #stacks = new Map<string, Weight[]>();

  constructor(weights: Iterable<Weight>) {
    for (const weight of weights) {
      if (weight.experts) this.#addExperts(weight);
      else this.#addParts(weight);
    }
  }

  /** Rows of all weights that come from a module; empty for an unknown one. */
  find(module: string): readonly Place[] {
    return this.#places.get(moduleKey(module)) ?? [];
  }

  /** The weights of the routed experts that a module holds: inputs and outputs. */
  stacks(module: string): readonly Weight[] {
    return this.#stacks.get(moduleKey(module)) ?? [];
  }

  #addParts(weight: Weight): void {
    let first = 0;
    for (const { name, runs } of weight.parts) {
      this.#put(name.replace(/(_rows)?\.weight$/, ''), { weight, first, runs });
      first += runs.reduce((n, [, count]) => n + count, 0);
    }
  }

  #addExperts(weight: Weight): void {
    const { count, path, role, interleaved } = weight.experts!;
    const holder = moduleKey(path.replace(/\.$/, ''));
    this.#stacks.set(holder, [...(this.#stacks.get(holder) ?? []), weight]);
    const rows = weight.shape[0] / count;
    if (role === 'input' && interleaved) return;
    for (let expert = 0; expert < count; expert++) {
      const put = (names: readonly string[], first: number, n: number) => {
        for (const name of names) this.#put(`${path}${expert}.${name}`, { weight, first, runs: [[0, n]], expert });
      };
      if (role === 'output') {
        put(['down_proj', 'w2'], 0, rows);
      } else {
        put(['gate_proj', 'w1'], 0, rows / 2);
        put(['up_proj', 'w3'], rows / 2, rows / 2);
      }
    }
  }

  #put(module: string, place: Place): void {
    const key = moduleKey(module);
    const list = this.#places.get(key);
    if (list) list.push(place);
    else this.#places.set(key, [place]);
  }
}

/** Names as different writers of one model have them: from the list of layers on, with one word for a block of experts. */
export function moduleKey(module: string): string {
  const found = /(?:^|\.)((?:layers|h|blocks)\.\d+\..*)$/.exec(module);
  return (found?.[1] ?? module).replace(/\.block_sparse_moe\b/, '.mlp');
}
