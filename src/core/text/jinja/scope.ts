/** Variables, inner ones in front of outer ones. */
import { Undefined, type Value } from './values.ts';

export class Scope {
  readonly #values: Map<string, Value>;
  #hidden: Set<string> | undefined;
  readonly #outer: Scope | undefined;

  constructor(outer?: Scope, values = new Map<string, Value>()) {
    this.#outer = outer;
    this.#values = values;
  }

  get(name: string): Value {
    for (let scope: Scope | undefined = this; scope; scope = scope.#outer) {
      const value = scope.#values.get(name);
      if (value !== undefined) return value;
      if (scope.#hidden?.has(name)) break;
    }
    return new Undefined(() => `'${name}' is undefined`);
  }

  /** Leaves a name unset here, whatever outer scopes have. */
  hide(name: string): void {
    this.#hidden ??= new Set();
    this.#hidden.add(name);
  }

  set(name: string, value: Value): void {
    this.#values.set(name, value);
  }
}
