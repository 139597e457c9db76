/**
 * The regular expressions of adapter configurations, in time linear in the text: all places where a match may stand are
 * followed at once (Thompson 1968). Look-around and back-references are not part of it.
 */
import { loraError } from './error.ts';

/** Configurations name a handful of modules. */
const MAX_PATTERN = 4096;
const MAX_STATES = 20_000;
const MAX_DEPTH = 100;

type Test = (code: number) => boolean;
/** `next` is followed after a character that passes `test`, or without one; `other` always without one. */
interface State {
  readonly test: Test | undefined;
  next: number;
  other: number;
  /** Passes only at the start or the end of the text. */
  readonly at?: 'start' | 'end';
}
/** Of a piece of the pattern: how it is written into the machine, in front of state `next`. */
type Piece = (next: number) => number;

const NONE = -1;

/** Whether the whole of a text matches. Throws `LoraAdapterError` (`config`) for what it cannot read. */
export function compilePattern(pattern: string): (text: string) => boolean {
  if (pattern.length > MAX_PATTERN) fail(pattern, `at most ${MAX_PATTERN} characters`);
  const states: State[] = [];
  const add = (state: State): number => {
    if (states.length >= MAX_STATES) fail(pattern, `at most ${MAX_STATES} states`);
    return states.push(state) - 1;
  };
  const accept = add({ test: undefined, next: NONE, other: NONE });
  const start = new Parser(pattern, add, states).parse()(accept);
  return (text) => matches(states, start, accept, text);
}

function matches(states: readonly State[], start: number, accept: number, text: string): boolean {
  let current = new Set<number>();
  const follow = (from: number, at: number, into: Set<number>): void => {
    const open = [from];
    for (let s = open.pop(); s !== undefined; s = open.pop()) {
      if (s === NONE || into.has(s)) continue;
      into.add(s);
      const state = states[s]!;
      if (state.test !== undefined) continue;
      if (state.at === 'start' && at > 0) continue;
      if (state.at === 'end' && at < text.length) continue;
      open.push(state.next, state.other);
    }
  };
  follow(start, 0, current);
  for (let i = 0; i < text.length && current.size > 0; i++) {
    const following = new Set<number>();
    for (const s of current) {
      const { test, next } = states[s]!;
      if (test?.(text.charCodeAt(i))) follow(next, i + 1, following);
    }
    current = following;
  }
  return current.has(accept);
}

class Parser {
  readonly #text: string;
  readonly #add: (state: State) => number;
  readonly #states: State[];
  #at = 0;
  #depth = 0;

  constructor(text: string, add: (state: State) => number, states: State[]) {
    this.#text = text;
    this.#add = add;
    this.#states = states;
  }

  parse(): Piece {
    const piece = this.#choice();
    if (this.#at < this.#text.length) fail(this.#text, 'closed groups');
    return piece;
  }

  #choice(): Piece {
    const branches = [this.#sequence()];
    while (this.#take('|')) branches.push(this.#sequence());
    return (next) =>
      branches.map((b) => b(next)).reduce((other, n) => this.#add({ test: undefined, next: n, other }), NONE);
  }

  #sequence(): Piece {
    const pieces: Piece[] = [];
    while (this.#at < this.#text.length && this.#text[this.#at] !== '|' && this.#text[this.#at] !== ')') {
      pieces.push(this.#repeated(this.#atom()));
    }
    return (next) => pieces.reduceRight((n, piece) => piece(n), next);
  }

  #repeated(piece: Piece): Piece {
    const [min, max] = this.#counts();
    if (min === 1 && max === 1) return piece;
    return (next) => {
      let n = next;
      if (max === undefined) {
        const loop = this.#add({ test: undefined, next: NONE, other: next });
        this.#states[loop]!.next = piece(loop);
        n = loop;
      }
      for (let i = min; i < (max ?? min); i++) n = this.#add({ test: undefined, next: piece(n), other: next });
      for (let i = 0; i < min; i++) n = piece(n);
      return n;
    };
  }

  #counts(): readonly [min: number, max: number | undefined] {
    const found = /^(?:[*+?]|\{(\d{1,4})(,(\d{0,4}))?\})\??/.exec(this.#text.slice(this.#at, this.#at + 16));
    if (!found) return [1, 1];
    this.#at += found[0].length;
    const kind = found[0][0];
    if (kind === '*') return [0, undefined];
    if (kind === '+') return [1, undefined];
    if (kind === '?') return [0, 1];
    const min = Number(found[1]);
    const max = found[2] === undefined ? min : found[3] ? Number(found[3]) : undefined;
    if (max !== undefined && max < min) fail(this.#text, 'rising counts');
    return [min, max];
  }

  #atom(): Piece {
    const c = this.#text[this.#at++]!;
    if (c === '(') return this.#group();
    if (c === '[') return this.#one(this.#set());
    if (c === '.') return this.#one((code) => code !== 10);
    if (c === '^') return this.#edge('start');
    if (c === '$') return this.#edge('end');
    if (c === '\\') return this.#one(this.#escape());
    if (c === '*' || c === '+' || c === '?') fail(this.#text, 'something to repeat');
    const wanted = c.charCodeAt(0);
    return this.#one((code) => code === wanted);
  }

  #group(): Piece {
    if (++this.#depth > MAX_DEPTH) fail(this.#text, `at most ${MAX_DEPTH} nested groups`);
    if (this.#take('?') && !this.#take(':')) {
      const name = /^P<\w{1,64}>/.exec(this.#text.slice(this.#at, this.#at + 80));
      if (!name) fail(this.#text, 'plain groups: look-around and flags are not supported');
      this.#at += name[0].length;
    }
    const piece = this.#choice();
    if (!this.#take(')')) fail(this.#text, 'closed groups');
    this.#depth--;
    return piece;
  }

  #set(): Test {
    const negated = this.#take('^');
    const tests: Test[] = [];
    for (let first = true; first || this.#text[this.#at] !== ']'; first = false) {
      const low = this.#text[this.#at++];
      if (low === undefined) fail(this.#text, 'closed sets');
      if (low === '\\') {
        tests.push(this.#escape());
      } else if (this.#text[this.#at] === '-' && (this.#text[this.#at + 1] ?? ']') !== ']') {
        const [from, to] = [low.charCodeAt(0), this.#text.charCodeAt(this.#at + 1)];
        this.#at += 2;
        tests.push((code) => code >= from && code <= to);
      } else {
        const wanted = low.charCodeAt(0);
        tests.push((code) => code === wanted);
      }
    }
    this.#at++;
    return (code) => tests.some((test) => test(code)) !== negated;
  }

  #escape(): Test {
    const c = this.#text[this.#at++];
    if (c === undefined) fail(this.#text, 'a character behind the backslash');
    const kind = CLASSES[c.toLowerCase()];
    if (kind !== undefined) return c === c.toLowerCase() ? kind : (code) => !kind(code);
    if (/[a-zA-Z0-9]/.test(c)) fail(this.#text, `known escapes, without \\${c}`);
    const wanted = c.charCodeAt(0);
    return (code) => code === wanted;
  }

  #one(test: Test): Piece {
    return (next) => this.#add({ test, next, other: NONE });
  }

  #edge(at: 'start' | 'end'): Piece {
    return (next) => this.#add({ test: undefined, next, other: NONE, at });
  }

  #take(c: string): boolean {
    if (this.#text[this.#at] !== c) return false;
    this.#at++;
    return true;
  }
}

const isDigit: Test = (code) => code >= 48 && code <= 57;
const CLASSES: Readonly<Record<string, Test>> = {
  d: isDigit,
  w: (code) => isDigit(code) || (code >= 65 && code <= 90) || (code >= 97 && code <= 122) || code === 95,
  s: (code) => code === 32 || (code >= 9 && code <= 13),
};

function fail(pattern: string, expected: string): never {
  throw loraError('config', `pattern ${JSON.stringify(pattern.slice(0, 80))}: expected ${expected}`);
}
