/** Template text to tokens. A block takes the line end behind it and the space in front of it along. */
import { FormatError } from '../../errors.ts';
import { isSpace, SPACE, strip } from './characters.ts';
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

// Regular expressions are kept for what is rare: setting one up costs as much as reading a whole template.
const RAW_BEGIN = new RegExp(`\\{%[-+]?[${SPACE}]*raw[${SPACE}]*(?:-%\\}[${SPACE}]*|%\\})`, 'y');
const RAW_END = new RegExp(`\\{%([-+]?)[${SPACE}]*endraw[${SPACE}]*(?=[-+]?%\\})`, 'g');
const FLOAT = /\d+(?:_\d+)*(?:(?:\.\d+(?:_\d+)*)?[eE][+-]?\d+(?:_\d+)*|\.\d+(?:_\d+)*)/y;
const INTEGER = /0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[\da-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*/y;
const NAME = /[\p{L}\p{N}\p{M}\p{Pc}]+/uy;
const IDENTIFIER = /^[\p{XID_Start}_]\p{XID_Continue}*$/u;
const MARKS: ReadonlySet<string> = new Set('// ** == != <= >= < > + - / * % ~ [ ] ( ) { } = . : | , ;'.split(' '));
const PAIRS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };
const CLOSING: ReadonlySet<string> = new Set(Object.values(PAIRS));

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

function isNameChar(code: number): boolean {
  return (code >= 0x61 && code <= 0x7a) || (code >= 0x41 && code <= 0x5a) || code === 0x5f || isDigit(code);
}

/** The tokens of a template, `eof` at their end. Errors name the line. */
export function tokenize(source: string): Token[] {
  return new Lexer(source).all();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  /** Where the current line ends; below zero in the last one. */
  #lineEnd: number;
  /** Whether what was read last ended a line. */
  #fresh = true;

  constructor(source: string) {
    const text = source.includes('\r') ? source.replace(/\r\n?/g, '\n') : source;
    this.#source = text.endsWith('\n') ? text.slice(0, -1) : text;
    this.#lineEnd = this.#source.indexOf('\n');
  }

  all(): Token[] {
    for (let open = this.#opening(); open >= 0; open = this.#opening()) {
      const kind = this.#source[open + 1];
      const sign = this.#signAt(open + 2);
      const raw = kind === '%' ? this.#rawAt(open, open + 2 + sign.length) : undefined;
      this.#text(this.#trimmed(this.#source.slice(this.#at, open), sign, kind === '{'));
      this.#advance(open + (raw === undefined ? 2 + sign.length : raw.length));
      if (raw !== undefined) this.#raw();
      else if (kind === '#') this.#comment();
      else this.#inside(kind === '{' ? '{{' : '{%');
    }
    this.#text(this.#source.slice(this.#at));
    this.#push('eof', 'end of template');
    return this.#tokens;
  }

  /** Where the next output, block or comment begins. */
  #opening(): number {
    for (let at = this.#source.indexOf('{', this.#at); at >= 0; at = this.#source.indexOf('{', at + 1)) {
      const next = this.#source[at + 1];
      if (next === '{' || next === '%' || next === '#') return at;
    }
    return -1;
  }

  /** The sign of a tag, which rules the space beside it. */
  #signAt(at: number): string {
    const c = this.#source[at];
    return c === '-' || c === '+' ? c : '';
  }

  /** The tag that begins raw text, if it stands at a position; `inside` is where its name may come. */
  #rawAt(open: number, inside: number): string | undefined {
    return this.#source.startsWith('raw', this.#behindSpace(inside)) ? this.#match(RAW_BEGIN, open) : undefined;
  }

  #match(pattern: RegExp, at: number): string | undefined {
    pattern.lastIndex = at;
    return pattern.exec(this.#source)?.[0];
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

  #unexpected(): never {
    this.#fail(`unexpected ${JSON.stringify(this.#source[this.#at])}`);
  }

  #advance(to: number): void {
    while (this.#lineEnd >= 0 && this.#lineEnd < to) {
      this.#line++;
      this.#lineEnd = this.#source.indexOf('\n', this.#lineEnd + 1);
    }
    this.#fresh = this.#source[to - 1] === '\n';
    this.#at = to;
  }

  /** Behind the space from a position on. */
  #behindSpace(at: number): number {
    let end = at;
    while (end < this.#source.length && isSpace(this.#source.charCodeAt(end))) end++;
    return end;
  }

  /** Text before a tag: `-` takes all space off its end, blocks and comments take that of their own line. */
  #trimmed(text: string, sign: string, output: boolean): string {
    if (sign === '-') return strip(text, 'right');
    if (sign === '+' || output) return text;
    const start = text.lastIndexOf('\n') + 1;
    if (start === 0 && !this.#fresh) return text;
    return strip(text.slice(start), 'both') === '' ? text.slice(0, start) : text;
  }

  /**
   * Behind the end of a tag, if one stands at the position: `-` takes all space along; blocks and comments take a line
   * end, unless there is a `+`.
   */
  #behindEnd(at: number, close: string): number | undefined {
    const sign = this.#signAt(at);
    if ((sign === '+' && close === '}}') || !this.#source.startsWith(close, at + sign.length)) return undefined;
    const end = at + sign.length + close.length;
    if (sign === '-') return this.#behindSpace(end);
    return sign === '' && close !== '}}' && this.#source[end] === '\n' ? end + 1 : end;
  }

  #raw(): void {
    RAW_END.lastIndex = this.#at;
    const end = RAW_END.exec(this.#source);
    if (!end) this.#fail('expected {% endraw %}, got the end of the template');
    this.#text(this.#trimmed(this.#source.slice(this.#at, end.index), end[1] ?? '', false));
    const close = end.index + end[0].length;
    this.#advance(this.#behindEnd(close, '%}') ?? close);
  }

  #comment(): void {
    const close = this.#source.indexOf('#}', this.#at);
    if (close < 0) this.#fail('expected #}, got the end of the template');
    const start = close > this.#at && this.#signAt(close - 1) !== '' ? close - 1 : close;
    this.#advance(this.#behindEnd(start, '#}') ?? close);
  }

  /** What stands in an output or a block. Inside brackets, its end is none. */
  #inside(open: '{{' | '{%'): void {
    const close = open === '{{' ? '}}' : '%}';
    const brackets: string[] = [];
    this.#push('begin', open);
    while (this.#at < this.#source.length) {
      const end = brackets.length === 0 ? this.#behindEnd(this.#at, close) : undefined;
      if (end !== undefined) {
        this.#push('end', close);
        this.#advance(end);
        return;
      }
      const next = this.#behindSpace(this.#at);
      this.#advance(next > this.#at ? next : this.#token(brackets));
    }
    this.#fail(`expected ${close}, got the end of the template`);
  }

  /** Reads one token; returns where it ends. */
  #token(brackets: string[]): number {
    const at = this.#at;
    const code = this.#source.charCodeAt(at);
    if (isDigit(code)) return this.#number();
    if (code === 0x27 || code === 0x22) return this.#string(this.#source[at] as string);
    if (code < 0x80 && !isNameChar(code)) return this.#mark(brackets);
    let end = at;
    while (isNameChar(this.#source.charCodeAt(end))) end++;
    if (this.#source.charCodeAt(end) > 0x7f) end = at + this.#otherName().length;
    this.#push('name', this.#source.slice(at, end));
    return end;
  }

  /** A name with letters beyond ASCII. */
  #otherName(): string {
    const name = this.#match(NAME, this.#at) ?? this.#unexpected();
    return IDENTIFIER.test(name) ? name : this.#fail(`expected a name, got ${JSON.stringify(name)}`);
  }

  #number(): number {
    const float = this.#source[this.#at - 1] === '.' ? undefined : this.#match(FLOAT, this.#at);
    if (float !== undefined) {
      this.#push('float', float, readFloat(float));
      return this.#at + float.length;
    }
    const integer = this.#match(INTEGER, this.#at) ?? this.#unexpected();
    this.#push('integer', integer, readInteger(integer) ?? this.#fail('expected an integer of at most 4300 digits'));
    return this.#at + integer.length;
  }

  #string(quote: string): number {
    let end = this.#at + 1;
    for (; this.#source[end] !== quote; end++) {
      if (this.#source[end] === '\\') end++;
      if (end >= this.#source.length) this.#unexpected();
    }
    const value = readString(this.#source.slice(this.#at + 1, end));
    if (value === undefined) this.#fail('expected a string with valid escapes');
    this.#push('string', this.#source.slice(this.#at, end + 1), value);
    return end + 1;
  }

  #mark(brackets: string[]): number {
    const two = this.#source.slice(this.#at, this.#at + 2);
    const mark = MARKS.has(two) ? two : two.slice(0, 1);
    if (!MARKS.has(mark)) this.#unexpected();
    const closes = PAIRS[mark];
    if (closes !== undefined) {
      if (brackets.push(closes) > MAX_BRACKETS) {
        this.#fail(`expected at most ${MAX_BRACKETS} brackets within each other`);
      }
    } else if (CLOSING.has(mark)) {
      const expected = brackets.pop();
      if (expected !== mark) this.#fail(`expected ${expected ?? 'no bracket'}, got ${mark}`);
    }
    this.#push('mark', mark);
    return this.#at + mark.length;
  }
}
