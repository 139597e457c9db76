/** Values of templates: those of Python, as far as a template can tell. */

/** A list. Templates cannot change one, so an array may be shared. */
export type List = readonly Value[];

/** `number` is an integer within the safe range, `bigint` one beyond it; fractions are `Float`. `null` is None. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | List
  | Float
  | Tuple
  | Dict
  | Range
  | Markup
  | Undefined
  | Iter
  | View
  | Namespace
  | Thing;

export type Int = number | bigint;

/** What a call passes. */
export interface Args {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

export const NO_ARGS: Args = { positional: [], named: new Map() };

/** A number with a fraction, or one that Python would print with `.0`. */
export class Float {
  readonly kind = 'float';
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}

export class Tuple {
  readonly kind = 'tuple';
  readonly items: List;
  /** Names of the items of a named tuple. */
  readonly names: readonly string[];
  constructor(items: List, names: readonly string[] = []) {
    this.items = items;
    this.names = names;
  }
}

/** Text that is already safe for HTML; what is added to it gets escaped. */
export class Markup {
  readonly kind = 'markup';
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** The integers from `start` on, before `stop`. */
export class Range {
  readonly kind = 'range';
  readonly start: number;
  readonly stop: number;
  readonly step: number;
  readonly length: number;
  constructor(start: number, stop: number, step: number) {
    this.start = start;
    this.stop = stop;
    this.step = step;
    this.length = Math.max(0, Math.ceil((stop - start) / step));
  }
  at(index: number): number {
    return this.start + index * this.step;
  }
}

/** What a dictionary compares keys by: equal values have the same. */
export type Key = string | number | bigint | object | null;

/** A dictionary in order of insertion. */
export class Dict {
  readonly kind = 'dict';
  readonly #entries = new Map<Key, readonly [Value, Value]>();

  get size(): number {
    return this.#entries.size;
  }
  has(key: Key): boolean {
    return this.#entries.has(key);
  }
  get(key: Key): Value | undefined {
    return this.#entries.get(key)?.[1];
  }
  /** For building; a dictionary that a template holds is not changed any more. A key that is there keeps its spelling. */
  set(key: Key, name: Value, value: Value): this {
    const known = this.#entries.get(key);
    this.#entries.set(key, [known ? known[0] : name, value]);
    return this;
  }
  setText(key: string, value: Value): this {
    return this.set(key, key, value);
  }
  entries(): IterableIterator<[Key, readonly [Value, Value]]> {
    return this.#entries.entries();
  }
  items(): IterableIterator<readonly [Value, Value]> {
    return this.#entries.values();
  }
}

/** `keys()`, `values()` or `items()` of a dictionary. */
export class View {
  readonly kind = 'view';
  readonly part: 'keys' | 'values' | 'items';
  readonly dict: Dict;
  constructor(part: View['part'], dict: Dict) {
    this.part = part;
    this.dict = dict;
  }
}

/** Items that come one by one, once. */
export class Iter {
  readonly kind = 'iter';
  readonly typeName: string;
  readonly items: Iterator<Value>;
  constructor(items: Iterator<Value>, typeName = 'generator') {
    this.items = items;
    this.typeName = typeName;
  }
}

/** The only thing that templates can change: named values that outlive their block. */
export class Namespace {
  readonly kind = 'namespace';
  readonly values = new Map<string, Value>();
}

/** Whatever else there is: functions, macros, the `loop` variable. */
export interface Thing {
  readonly kind: 'thing';
  readonly typeName: string;
  repr(): string;
  attribute?(name: string): Value | undefined;
  call?(args: Args): Value;
  length?(): number;
}

/** What a missing name or attribute yields: empty as text, false as a condition, an error in most other places. */
export class Undefined {
  readonly kind = 'undefined';
  readonly #message: () => string;
  constructor(message: string | (() => string)) {
    this.#message = typeof message === 'string' ? () => message : message;
  }
  get message(): string {
    return this.#message();
  }
}

export function isList(value: Value): value is List {
  return Array.isArray(value);
}

export function isInt(value: Value): value is Int {
  return typeof value === 'number' || typeof value === 'bigint';
}

/** The text of a string, marked as safe or not. */
export function textOf(value: Value): string | undefined {
  if (typeof value === 'string') return value;
  return value instanceof Markup ? value.text : undefined;
}

/** An integer in its usual form. */
export function int(value: bigint): Int {
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

/** Python's name of a value's type, as its error messages have it. */
export function typeName(value: Value): string {
  switch (typeof value) {
    case 'boolean':
      return 'bool';
    case 'number':
    case 'bigint':
      return 'int';
    case 'string':
      return 'str';
  }
  if (value === null) return 'NoneType';
  if (isList(value)) return 'list';
  switch (value.kind) {
    case 'thing':
    case 'iter':
      return value.typeName;
    case 'view':
      return `dict_${value.part}`;
    case 'undefined':
      return 'Undefined';
    case 'namespace':
      return 'Namespace';
    case 'markup':
      return 'Markup';
    case 'float':
    case 'tuple':
    case 'dict':
    case 'range':
      return value.kind;
    default:
      return value satisfies never;
  }
}

/** A function under its name. */
export function native(name: string, call: (args: Args) => Value): Thing {
  return { kind: 'thing', typeName: 'builtin_function_or_method', repr: () => `<built-in function ${name}>`, call };
}
