/** The `loop` variable. */

import { bind } from './bind.ts';
import { equal } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { iterate, lengthOf } from './sequence.ts';
import type { Args, Thing, Value } from './values.ts';
import { native, Undefined } from './values.ts';

/** Renders the body of a recursive loop for inner items. */
export type Recurse = (items: Value, depth: number) => Value;

/** Goes through items, one step ahead where it is asked for the next one. */
export class Loop implements Thing {
  readonly kind = 'thing';
  readonly typeName = 'LoopContext';
  readonly #items: Value;
  readonly #recurse: Recurse | undefined;
  readonly #depth0: number;
  readonly #budget: Budget;
  #iterator: Iterator<Value>;
  #index0 = -1;
  #length: number | undefined;
  #after: Value | undefined;
  #current: Value | undefined;
  #before: Value | undefined;
  #changed: readonly Value[] | undefined;

  constructor(items: Value, budget: Budget, depth0: number, recurse: Recurse | undefined) {
    this.#items = items;
    this.#iterator = iterate(items, budget);
    this.#budget = budget;
    this.#depth0 = depth0;
    this.#recurse = recurse;
  }

  /** The next item, or `undefined` behind the last one. */
  advance(): Value | undefined {
    const item = this.#peek();
    this.#after = undefined;
    if (item === undefined) return undefined;
    this.#index0++;
    this.#before = this.#current;
    this.#current = item;
    return item;
  }

  #peek(): Value | undefined {
    if (this.#after === undefined) {
      const next = this.#iterator.next();
      if (!next.done) this.#after = next.value;
    }
    return this.#after;
  }

  length(): number {
    if (this.#length !== undefined) return this.#length;
    const known = lengthOf(this.#items, this.#budget);
    if (known !== undefined) {
      this.#length = known;
    } else {
      const rest: Value[] = [];
      for (let next = this.#iterator.next(); !next.done; next = this.#iterator.next()) rest.push(next.value);
      this.#iterator = rest[Symbol.iterator]();
      this.#length = rest.length + this.#index0 + 1 + (this.#after === undefined ? 0 : 1);
    }
    return this.#length;
  }

  attribute(name: string): Value | undefined {
    switch (name) {
      case 'index':
        return this.#index0 + 1;
      case 'index0':
        return this.#index0;
      case 'revindex':
        return this.length() - this.#index0;
      case 'revindex0':
        return this.length() - this.#index0 - 1;
      case 'first':
        return this.#index0 === 0;
      case 'last':
        return this.#peek() === undefined;
      case 'length':
        return this.length();
      case 'depth':
        return this.#depth0 + 1;
      case 'depth0':
        return this.#depth0;
      case 'previtem':
        return this.#absent(this.#before, 'there is no previous item');
      case 'nextitem':
        return this.#absent(this.#peek(), 'there is no next item');
      case 'cycle':
        return native(name, (args) => this.#cycle(args));
      case 'changed':
        return native(name, (args) => this.#isChanged(args));
      default:
        return undefined;
    }
  }

  #absent(item: Value | undefined, message: string): Value {
    return item === undefined ? new Undefined(message) : item;
  }

  #cycle({ positional }: Args): Value {
    if (positional.length === 0) throw unfit('no items for cycling given');
    return positional[this.#index0 % positional.length] as Value;
  }

  #isChanged({ positional }: Args): boolean {
    const last = this.#changed;
    const same =
      last?.length === positional.length && last.every((item, i) => equal(item, positional[i] as Value, this.#budget));
    this.#changed = positional;
    return !same;
  }

  call(args: Args): Value {
    const [items = null] = bind('loop', args, ['iterable']);
    if (!this.#recurse) throw new Fault("The loop must have the 'recursive' marker to be called recursively.");
    return this.#recurse(items, this.#depth0 + 1);
  }

  repr(): string {
    return `<LoopContext ${this.#index0 + 1}/${this.length()}>`;
  }
}
