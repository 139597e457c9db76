/** JSON as model repositories hold it: with Python's `NaN` and `Infinity`, errors that name file and place, bounded depth. */
import { FormatError } from '../errors.ts';

/** Containers within containers. Configurations stay below 20; the bound keeps recursive readers off the stack's end. */
const MAX_DEPTH = 256;
/** Text shown around an error. */
const EXCERPT_CHARS = 24;

export interface JsonOptions {
  /** For messages: the file. */
  readonly name: string;
  /** What an object with one key twice means: the last wins, as in `JSON.parse`, or an error. */
  readonly duplicateKeys?: 'last' | 'error' | undefined;
  /** Bound on the number of values, for text whose size alone does not bound the memory they take. */
  readonly maxValues?: number | undefined;
}

/**
 * Parses JSON. The bare words `NaN`, `Infinity` and `-Infinity`, which Python writes, are numbers. Anything else that
 * is no JSON throws `FormatError` with line and column.
 */
export function parseJson(text: string, options: JsonOptions): unknown {
  if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
  const plain = options.duplicateKeys !== 'error' && options.maxValues === undefined;
  if (plain && depthOf(text) <= MAX_DEPTH) {
    try {
      return JSON.parse(text);
    } catch {
      // Read again below, for the words of Python or for the place of the error.
    }
  }
  return new Parser(text, options).document();
}

/** Deepest nesting of brackets outside strings. */
function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      i = text.indexOf('"', i + 1);
      while (i > 0 && escaped(text, i)) i = text.indexOf('"', i + 1);
      if (i < 0) break;
    } else if (c === 0x7b || c === 0x5b) {
      if (++depth > deepest) deepest = depth;
    } else if (c === 0x7d || c === 0x5d) {
      depth--;
    }
  }
  return deepest;
}

/** Whether an odd number of backslashes stands before `at`. */
function escaped(text: string, at: number): boolean {
  let slashes = 0;
  while (text.charCodeAt(at - 1 - slashes) === 0x5c) slashes++;
  return slashes % 2 === 1;
}

const WORDS: readonly (readonly [string, unknown])[] = [
  ['true', true],
  ['false', false],
  ['null', null],
  ['NaN', Number.NaN],
  ['Infinity', Number.POSITIVE_INFINITY],
  ['-Infinity', Number.NEGATIVE_INFINITY],
];
const ESCAPES: ReadonlyMap<string, string> = new Map([
  ['"', '"'],
  ['\\', '\\'],
  ['/', '/'],
  ['b', '\b'],
  ['f', '\f'],
  ['n', '\n'],
  ['r', '\r'],
  ['t', '\t'],
]);

class Parser {
  readonly #text: string;
  readonly #name: string;
  readonly #unique: boolean;
  readonly #number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
  readonly #maxValues: number;
  #values = 0;
  #at = 0;

  constructor(text: string, options: JsonOptions) {
    this.#text = text;
    this.#name = options.name;
    this.#unique = options.duplicateKeys === 'error';
    this.#maxValues = options.maxValues ?? Number.POSITIVE_INFINITY;
  }

  document(): unknown {
    const value = this.#value(1);
    this.#space();
    if (this.#at < this.#text.length) this.#fail('the end');
    return value;
  }

  #value(depth: number): unknown {
    this.#space();
    if (++this.#values > this.#maxValues) this.#fail(`at most ${this.#maxValues} values`);
    switch (this.#text.charCodeAt(this.#at)) {
      case 0x7b:
        return this.#object(depth);
      case 0x5b:
        return this.#array(depth);
      case 0x22:
        return this.#string();
      default:
        return this.#scalar();
    }
  }

  #object(depth: number): Record<string, unknown> {
    if (depth > MAX_DEPTH) this.#fail(`at most ${MAX_DEPTH} levels`);
    const object: Record<string, unknown> = {};
    this.#at++;
    for (let first = true; !this.#closes(0x7d, first); first = false) {
      this.#space();
      if (this.#text.charCodeAt(this.#at) !== 0x22) this.#fail('a key in quotes');
      const start = this.#at;
      const key = this.#string();
      if (this.#unique && Object.hasOwn(object, key)) {
        this.#at = start;
        this.#fail(`every key once, ${JSON.stringify(key.slice(0, 200))} is there twice`);
      }
      this.#space();
      if (this.#text.charCodeAt(this.#at) !== 0x3a) this.#fail('":"');
      this.#at++;
      const value = this.#value(depth + 1);
      // Assigning to this name would set the prototype.
      if (key === '__proto__') {
        Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true });
      } else object[key] = value;
    }
    return object;
  }

  #array(depth: number): unknown[] {
    if (depth > MAX_DEPTH) this.#fail(`at most ${MAX_DEPTH} levels`);
    const array: unknown[] = [];
    this.#at++;
    for (let first = true; !this.#closes(0x5d, first); first = false) array.push(this.#value(depth + 1));
    return array;
  }

  /** Steps over the closing bracket, or over the comma before the next member. */
  #closes(bracket: number, first: boolean): boolean {
    this.#space();
    const c = this.#text.charCodeAt(this.#at);
    if (c === bracket) {
      this.#at++;
      return true;
    }
    if (first) return false;
    if (c !== 0x2c) this.#fail(`"," or "${String.fromCharCode(bracket)}"`);
    this.#at++;
    return false;
  }

  #string(): string {
    const text = this.#text;
    let from = this.#at + 1;
    let out = '';
    for (let i = from; ; i++) {
      const c = text.charCodeAt(i);
      if (c === 0x22) {
        this.#at = i + 1;
        return out + text.slice(from, i);
      }
      if (c === 0x5c) {
        this.#at = i;
        out += text.slice(from, i) + this.#escape();
        i = this.#at - 1;
        from = this.#at;
      } else if (!(c >= 0x20)) {
        this.#at = i;
        this.#fail('the end of a string');
      }
    }
  }

  #escape(): string {
    const kind = this.#text.charAt(this.#at + 1);
    const plain = ESCAPES.get(kind);
    if (plain !== undefined) {
      this.#at += 2;
      return plain;
    }
    const digits = this.#text.slice(this.#at + 2, this.#at + 6);
    if (kind !== 'u' || !/^[0-9a-fA-F]{4}$/.test(digits)) this.#fail('an escape sequence');
    this.#at += 6;
    return String.fromCharCode(Number.parseInt(digits, 16));
  }

  #scalar(): unknown {
    this.#number.lastIndex = this.#at;
    const match = this.#number.exec(this.#text);
    if (match) {
      this.#at += match[0].length;
      return Number(match[0]);
    }
    for (const [word, value] of WORDS) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    return this.#fail('a value');
  }

  #space(): void {
    for (; ; this.#at++) {
      const c = this.#text.charCodeAt(this.#at);
      if (c !== 0x20 && c !== 0x0a && c !== 0x0d && c !== 0x09) return;
    }
  }

  #fail(expected: string): never {
    let line = 1;
    let column = this.#at + 1;
    for (let i = this.#text.indexOf('\n'); i >= 0 && i < this.#at; i = this.#text.indexOf('\n', i + 1)) {
      line++;
      column = this.#at - i;
    }
    const rest = this.#text.slice(this.#at, this.#at + EXCERPT_CHARS);
    const got = rest === '' ? 'the end of the text' : JSON.stringify(rest);
    throw new FormatError(`${this.#name}:${line}:${column}: expected ${expected}, got ${got}`);
  }
}
