import type { GpuKvCache } from './cache.ts';

/**
 * Kernels by an options object, which is made once at build, and the kind of cache; layers with the same text share
 * them. The lookup of a step makes no strings.
 */
export class Plans<O extends object, P> {
  readonly #keyOf: (options: O, cache: GpuKvCache | undefined) => string;
  readonly #make: (options: O, cache: GpuKvCache | undefined) => P;
  readonly #byKey = new Map<string, P>();
  readonly #byOptions = new WeakMap<O, Map<number, P>>();

  constructor(
    keyOf: (options: O, cache: GpuKvCache | undefined) => string,
    make: (options: O, cache: GpuKvCache | undefined) => P,
  ) {
    this.#keyOf = keyOf;
    this.#make = make;
  }

  of(options: O, cache?: GpuKvCache, variant = 0): P {
    let kinds = this.#byOptions.get(options);
    if (kinds === undefined) {
      kinds = new Map();
      this.#byOptions.set(options, kinds);
    }
    const kind = cache === undefined ? variant : cache.kind;
    let plan = kinds.get(kind);
    if (plan === undefined) {
      plan = this.#shared(`${this.#keyOf(options, cache)} ${kind}`, options, cache);
      kinds.set(kind, plan);
    }
    return plan;
  }

  #shared(key: string, options: O, cache: GpuKvCache | undefined): P {
    let plan = this.#byKey.get(key);
    if (plan === undefined) {
      plan = this.#make(options, cache);
      this.#byKey.set(key, plan);
    }
    return plan;
  }
}
