/** Template text to tokens. A block takes the line end behind it and the space in front of it along. */
import { FormatError } from '../../errors.ts';
import { SPACE, strip } from './characters.ts';
import { readFloat, readInteger, readString } from './literals.ts';
import type { Value } from './values.ts';

export type TokenType = 'text' | 'begin' | 'end' | 'name' | 'string' | 'integer' | 'float' | 'mark' | 'eof';

/** `begin` and `end` enclose an output (`{{`, `}}`) or a block (`{%`, `%}`). */
export interface Token {
  readonly type: TokenType;
  readonly text: string;
  /** Of literals. */
  readonly value: Value;
  readonly line: number;
}

/** Templates of models have some thousand; a file of 4 MB must not become gigabytes. */
const MAX_TOKENS = 1_000_000;
const MAX_BRACKETS = 200;

/** What interrupts text: raw text, an output, a block or a comment, each with a sign that rules the space before it. */
const OPENING = new RegExp(`\\{(?:%([-+]?)[${SPACE}]*raw[${SPACE}]*(?:-%\\}[${SPACE}]*|%\\})|([{%#])([-+]?))`, 'g');
const RAW_END = new RegExp(`\\{%([-+]?)[${SPACE}]*endraw[${SPACE}]*(?:\\+%\\}|-%\\}[${SPACE}]*|%\\}\\n?)`, 'g');
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}[${SPACE}]*|#\\}\\n?`, 'g');
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}[${SPACE}]*|%\\}\\n?`, 'y');
const OUTPUT_END = new RegExp(`-\\}\\}[${SPACE}]*|\\}\\}`, 'y');
const SPACES = new RegExp(`[${SPACE}]+`, 'y');
const FLOAT = /\d+(?:_\d+)*(?:(?:\.\d+(?:_\d+)*)?[eE][+-]?\d+(?:_\d+)*|\.\d+(?:_\d+)*)/y;
const INTEGER = /0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[\da-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*/y;
const NAME = /[\p{L}\p{N}\p{M}\p{Pc}]+/uy;
const IDENTIFIER = /^[\p{XID_Start}_]\p{XID_Continue}*$/u;
const STRING = /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy;
const MARK = /\/\/|\*\*|[=!<>]=|[-+/*%~[\](){}<>=.:|,;]/y;
const PAIRS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };
const CLOSING = new Set(Object.values(PAIRS));

/** The tokens of a template, `eof` at their end. Errors name the line. */
export function tokenize(source: string): Token[] {
  return new Lexer(source).all();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  /** Whether what was read last ended a line. */
  #fresh = true;

  constructor(source: string) {
    const text = source.replace(/\r\n?/g, '\n');
    this.#source = text.endsWith('\n') ? text.slice(0, -1) : text;
  }

  all(): Token[] {
    while (this.#at < this.#source.length) {
      OPENING.lastIndex = this.#at;
      const opening = OPENING.exec(this.#source);
      if (!opening) {
        this.#text(this.#source.slice(this.#at));
        break;
      }
      const [all, rawSign, kind, sign = ''] = opening;
      this.#text(this.#trimmed(this.#source.slice(this.#at, opening.index), rawSign ?? sign, kind === '{'));
      this.#advance(opening.index + all.length);
      if (kind === undefined) this.#raw();
      else if (kind === '#') this.#comment();
      else this.#inside(kind);
    }
    this.#push('eof', 'end of template');
    return this.#tokens;
  }

  #push(type: TokenType, text: string, value: Value = null): void {
    if (this.#tokens.length >= MAX_TOKENS) this.#fail(`expected at most ${MAX_TOKENS} tokens`);
    this.#tokens.push({ type, text, value, line: this.#line });
  }

  #text(text: string): void {
    if (text !== '') this.#push('text', text, text);
  }

  #fail(problem: string): never {
    throw new FormatError(`chat template, line ${this.#line}: ${problem}`);
  }

  #advance(to: number): void {
    for (let i = this.#source.indexOf('\n', this.#at); i >= 0 && i < to; i = this.#source.indexOf('\n', i + 1)) {
      this.#line++;
    }
    this.#fresh = this.#source[to - 1] === '\n';
    this.#at = to;
  }

  /** Text before a tag: `-` takes all space off its end, blocks and comments take that of their own line. */
  #trimmed(text: string, sign: string, output: boolean): string {
    if (sign === '-') return strip(text, 'right');
    if (sign === '+' || output) return text;
    const start = text.lastIndexOf('\n') + 1;
    if (start === 0 && !this.#fresh) return text;
    return strip(text.slice(start), 'both') === '' ? text.slice(0, start) : text;
  }

  #raw(): void {
    RAW_END.lastIndex = this.#at;
    const end = RAW_END.exec(this.#source);
    if (!end) this.#fail('expected {% endraw %}, got the end of the template');
    this.#text(this.#trimmed(this.#source.slice(this.#at, end.index), end[1] ?? '', false));
    this.#advance(end.index + end[0].length);
  }

  #comment(): void {
    COMMENT_END.lastIndex = this.#at;
    const end = COMMENT_END.exec(this.#source);
    if (!end) this.#fail('expected #}, got the end of the template');
    this.#advance(end.index + end[0].length);
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#source)?.[0];
  }

  /** What stands in an output or a block. Inside brackets, its end is none. */
  #inside(kind: string): void {
    const [end, close] = kind === '{' ? [OUTPUT_END, '}}'] : [BLOCK_END, '%}'];
    const brackets: string[] = [];
    this.#push('begin', kind === '{' ? '{{' : '{%');
    for (;;) {
      const done = brackets.length === 0 ? this.#take(end) : undefined;
      if (done !== undefined) {
        this.#push('end', close);
        this.#advance(this.#at + done.length);
        return;
      }
      if (this.#at >= this.#source.length) this.#fail(`expected ${close}, got the end of the template`);
      this.#advance(this.#at + (this.#take(SPACES)?.length ?? this.#token(brackets)));
    }
  }

  /** Reads one token; returns its length. */
  #token(brackets: string[]): number {
    const float = this.#source[this.#at - 1] === '.' ? undefined : this.#take(FLOAT);
    if (float !== undefined) {
      this.#push('float', float, readFloat(float));
      return float.length;
    }
    const integer = this.#take(INTEGER);
    if (integer !== undefined) {
      this.#push('integer', integer, readInteger(integer) ?? this.#fail('expected an integer of at most 4300 digits'));
      return integer.length;
    }
    const name = this.#take(NAME);
    if (name !== undefined) {
      if (!IDENTIFIER.test(name)) this.#fail(`expected a name, got ${JSON.stringify(name)}`);
      this.#push('name', name);
      return name.length;
    }
    const string = this.#take(STRING);
    if (string !== undefined) {
      const value = readString(string.slice(1, -1));
      this.#push(
        'string',
        string,
        value ?? this.#fail(`expected a string with valid escapes, got ${string.slice(0, 40)}`),
      );
      return string.length;
    }
    const mark = this.#take(MARK);
    if (mark === undefined) return this.#fail(`unexpected ${JSON.stringify(this.#source[this.#at])}`);
    this.#balance(mark, brackets);
    this.#push('mark', mark);
    return mark.length;
  }

  #balance(mark: string, brackets: string[]): void {
    const closes = PAIRS[mark];
    if (closes !== undefined) {
      if (brackets.push(closes) > MAX_BRACKETS)
        this.#fail(`expected at most ${MAX_BRACKETS} brackets within each other`);
    } else if (CLOSING.has(mark)) {
      const expected = brackets.pop();
      if (expected !== mark) this.#fail(`expected ${expected ?? 'no bracket'}, got ${mark}`);
    }
  }
}
