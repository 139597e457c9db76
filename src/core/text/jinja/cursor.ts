/** A place among the tokens of a template, with what the parser has to remember about names. */
import { FormatError } from '../../errors.ts';
import type { Token } from './lexer.ts';

/** Expressions and statements within each other; templates of models stay below 30. */
const MAX_NESTING = 200;

/** Names with a meaning in macros, as long as the macro does not assign them itself. */
const SPECIAL = ['caller', 'kwargs', 'varargs'] as const;
type Special = (typeof SPECIAL)[number];

interface Tracker {
  readonly open: Set<string>;
  readonly used: Set<string>;
}

export class Cursor {
  /** The current token. */
  token: Token;
  readonly #tokens: readonly Token[];
  readonly #filters: ReadonlyMap<string, unknown>;
  readonly #tests: ReadonlyMap<string, unknown>;
  #at = 0;
  #depth = 0;
  #trackers: Tracker[] = [];
  /** Filters and tests that do not exist. In a condition they are errors only when they are reached. */
  readonly #unknown: string[] = [];

  constructor(tokens: readonly Token[], filters: ReadonlyMap<string, unknown>, tests: ReadonlyMap<string, unknown>) {
    this.#tokens = tokens;
    this.token = tokens[0] as Token;
    this.#filters = filters;
    this.#tests = tests;
  }

  /** The token behind the current one. */
  get ahead(): Token {
    return this.#tokens[Math.min(this.#at + 1, this.#tokens.length - 1)] as Token;
  }
  /** Steps over the current token; the last one stays. */
  next(): Token {
    const token = this.token;
    if (token.type !== 'eof') this.token = this.#tokens[++this.#at] as Token;
    return token;
  }

  isMark(mark: string): boolean {
    return this.token.type === 'mark' && this.token.text === mark;
  }
  isName(name: string): boolean {
    return this.token.type === 'name' && this.token.text === name;
  }
  isAny(names: readonly string[]): boolean {
    return this.token.type === 'name' && names.includes(this.token.text);
  }
  skipMark(mark: string): boolean {
    const found = this.isMark(mark);
    if (found) this.next();
    return found;
  }
  skipName(name: string): boolean {
    const found = this.isName(name);
    if (found) this.next();
    return found;
  }
  expectMark(mark: string): void {
    if (!this.skipMark(mark)) this.fail(`expected ${mark}, got ${this.token.text}`);
  }
  expectName(): string {
    if (this.token.type !== 'name') this.fail(`expected a name, got ${this.token.text}`);
    return this.next().text;
  }
  expectEnd(): void {
    if (this.token.type !== 'end') this.fail(`expected the end of the tag, got ${this.token.text}`);
    this.next();
  }

  fail(problem: string, line = this.token.line): never {
    throw new FormatError(`chat template, line ${line}: ${problem}`);
  }

  /** Bounds how deep parsing goes. */
  nested<T>(parse: () => T): T {
    if (++this.#depth > MAX_NESTING) this.fail(`expected at most ${MAX_NESTING} levels within each other`);
    try {
      return parse();
    } finally {
      this.#depth--;
    }
  }

  load(name: string): void {
    for (const tracker of this.#trackers) if (tracker.open.has(name)) tracker.used.add(name);
  }
  store(name: string): void {
    for (const tracker of this.#trackers) tracker.open.delete(name);
  }
  /** Parses a macro's body; tells which special names it reads. */
  tracked<T>(parse: () => T): { readonly result: T; readonly used: Readonly<Record<Special, boolean>> } {
    const tracker: Tracker = { open: new Set(SPECIAL), used: new Set() };
    this.#trackers.push(tracker);
    const result = parse();
    this.#trackers.pop();
    const { used } = tracker;
    return { result, used: { caller: used.has('caller'), kwargs: used.has('kwargs'), varargs: used.has('varargs') } };
  }
  /** Parses what is no part of the macros around. */
  apart<T>(parse: () => T): T {
    const trackers = this.#trackers;
    this.#trackers = [];
    const result = parse();
    this.#trackers = trackers;
    return result;
  }

  noteFilter(name: string): void {
    if (!this.#filters.has(name)) this.#unknown.push(`no filter named '${name}'`);
  }
  noteTest(name: string): void {
    if (!this.#tests.has(name)) this.#unknown.push(`no test named '${name}'`);
  }
  get unknownCount(): number {
    return this.#unknown.length;
  }
  /** What was noted since then may never be reached. */
  forgive(count: number): void {
    this.#unknown.length = count;
  }
  /** Parses what is reached for certain once its scope is. */
  certain<T>(parse: () => T): T {
    const count = this.#unknown.length;
    const result = parse();
    const problem = this.#unknown[count];
    if (problem !== undefined) this.fail(problem);
    return result;
  }
}
