/**
 * What options objects need, by the object, which is made once at build. Plans of equal text share their kernels; the
 * lookup of a step makes no strings.
 */
export class Plans<O extends object, P> {
  readonly #make: (options: O, kind: number) => P;
  readonly #byOptions = new WeakMap<O, Map<number, P>>();

  constructor(make: (options: O, kind: number) => P) {
    this.#make = make;
  }

  /** `kind` tells plans of the same options apart. */
  of(options: O, kind: number): P {
    let kinds = this.#byOptions.get(options);
    if (kinds === undefined) {
      kinds = new Map();
      this.#byOptions.set(options, kinds);
    }
    let plan = kinds.get(kind);
    if (plan === undefined) {
      plan = this.#make(options, kind);
      kinds.set(kind, plan);
    }
    return plan;
  }
}
