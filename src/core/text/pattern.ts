/**
 * Regular expressions of tokenizer files, written for the Oniguruma engine (Ruby syntax, Unicode), as JavaScript ones.
 * What differs is rewritten: `(?i:…)`, possessive and atomic groups, `^` and `$` at line ends, `\s \w \d \h \b \A \Z`,
 * POSIX brackets, set operations in brackets, property names.
 */
import { FormatError, UnsupportedError } from '../errors.ts';
import { characterClass, classOfBracket, foldedLiteral } from './patternClass.ts';
import { textForPattern } from './unicode.ts';

/** Real patterns have a few hundred characters; a huge one is an attack on the compiler. */
const MAX_PATTERN_LENGTH = 65_536;
const MAX_GROUP_DEPTH = 250;

/** Ranges of a text that a pattern matches, in order and without overlap. */
export interface Finder {
  find(text: string, onMatch: (start: number, end: number) => void): void;
}

/** Matches of a literal text. An empty literal matches between all characters. */
export function literalFinder(literal: string): Finder {
  if (literal === '') return regexFinder(/(?:)/gu);
  return {
    find(text, onMatch) {
      for (let at = text.indexOf(literal); at >= 0; at = text.indexOf(literal, at + literal.length)) {
        onMatch(at, at + literal.length);
      }
    },
  };
}

/** Matches of single characters that satisfy a predicate on code points. */
export function charFinder(matches: (code: number) => boolean): Finder {
  return {
    find(text, onMatch) {
      for (let i = 0; i < text.length; ) {
        const code = text.codePointAt(i)!;
        const next = i + (code > 0xffff ? 2 : 1);
        if (matches(code)) onMatch(i, next);
        i = next;
      }
    },
  };
}

/** Matches of a pattern in tokenizer-file syntax; `path` names it in errors. Compiled on first use. */
export function patternFinder(source: string, path: string): Finder {
  return regexFinder(compilePattern(source, path));
}

/** Matches of a JavaScript expression with flags `g` and `u` or `v`. */
export function regexFinder(regex: RegExp): Finder {
  return {
    find(text, onMatch) {
      // Not even an empty match is found in an empty text.
      if (text === '') return;
      const seen = textForPattern(text);
      let from = 0;
      let lastEnd = -1;
      while (from <= seen.length) {
        regex.lastIndex = from;
        const match = regex.exec(seen);
        if (match === null) return;
        const start = match.index;
        const end = start + match[0].length;
        // An empty match right after a match, or between two surrogates, is no match; look one character further.
        if (end === start && (start === lastEnd || splitsPair(seen, start))) {
          from = end + (end < seen.length && seen.codePointAt(end)! > 0xffff ? 2 : 1);
          continue;
        }
        onMatch(start, end);
        from = lastEnd = end;
      }
    },
  };
}

function splitsPair(text: string, at: number): boolean {
  return at > 0 && (text.charCodeAt(at) & 0xfc00) === 0xdc00 && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
}

/** Translates a pattern. Throws `FormatError` for a malformed one, `UnsupportedError` for what JavaScript cannot say. */
export function compilePattern(source: string, path: string): RegExp {
  if (source.length > MAX_PATTERN_LENGTH) {
    throw new FormatError(
      `${path}: expected a pattern of at most ${MAX_PATTERN_LENGTH} characters, got ${source.length}`,
    );
  }
  const translator = new Translator(source, path);
  const translated = translator.translate();
  try {
    return new RegExp(translated, translator.usesSets ? 'gv' : 'gu');
  } catch (error) {
    throw new FormatError(`${path}: expected a regular expression, got ${JSON.stringify(source)}`, { cause: error });
  }
}

interface Flags {
  readonly ignoreCase: boolean;
  readonly dotAll: boolean;
  readonly extended: boolean;
}

// Outside brackets, Latin-1 superscripts and fractions count as word characters.
const WORD_MEMBERS = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xb2\\xb3\\xb9\\xbc-\\xbe';
const WORD = `[${WORD_MEMBERS}]`;
const WORD_BOUNDARY = `(?:(?<=${WORD})(?!${WORD})|(?<!${WORD})(?=${WORD}))`;
const NOT_WORD_BOUNDARY = `(?:(?<=${WORD})(?=${WORD})|(?<!${WORD})(?!${WORD}))`;
const LINE_BREAK = '(?:\\r\\n|[\\n-\\r\\x85\\u2028\\u2029])';

class Translator {
  readonly #source: string;
  readonly #path: string;
  #at = 0;
  #atomicGroups = 0;
  #captures = 0;
  #depth = 0;
  /** Set operations in brackets need the `v` flag. */
  usesSets = false;

  constructor(source: string, path: string) {
    this.#source = source;
    this.#path = path;
  }

  translate(): string {
    const result = this.#alternatives({ ignoreCase: false, dotAll: false, extended: false });
    if (this.#at < this.#source.length) throw this.#malformed('unmatched )');
    return result;
  }

  #malformed(what: string): FormatError {
    return new FormatError(
      `${this.#path}: expected a regular expression, got ${JSON.stringify(this.#source)} (${what} at ${this.#at})`,
    );
  }

  #unsupported(what: string): UnsupportedError {
    return new UnsupportedError(
      `${this.#path}: ${what} in ${JSON.stringify(this.#source)} has no counterpart in JavaScript`,
      {
        feature: 'regular expression syntax',
      },
    );
  }

  #eat(text: string): boolean {
    if (!this.#source.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #next(): string {
    if (this.#at >= this.#source.length) throw this.#malformed('unexpected end');
    const char = String.fromCodePoint(this.#source.codePointAt(this.#at)!);
    this.#at += char.length;
    return char;
  }

  #alternatives(flags: Flags): string {
    if (++this.#depth > MAX_GROUP_DEPTH) throw this.#malformed(`groups nest deeper than ${MAX_GROUP_DEPTH}`);
    let current = flags;
    let result = '';
    while (this.#at < this.#source.length && this.#source[this.#at] !== ')') {
      if (this.#eat('|')) {
        result += '|';
        continue;
      }
      const switched = this.#inlineFlags(current);
      if (switched !== undefined) {
        // `a(?i)b|c` is `a(?i:b|c)`: the flags hold to the end of the enclosing group.
        current = switched;
        result += `(?:${this.#alternatives(current)})`;
        continue;
      }
      if (current.extended && this.#skipExtended()) continue;
      result += this.#quantified(this.#atom(current));
    }
    this.#depth--;
    return result;
  }

  #skipExtended(): boolean {
    const start = this.#at;
    while (/\s/.test(this.#source[this.#at] ?? '')) this.#at++;
    if (this.#source[this.#at] === '#') {
      while (this.#at < this.#source.length && this.#source[this.#at] !== '\n') this.#at++;
    }
    return this.#at > start;
  }

  /** `(?im-x)` without a colon. */
  #inlineFlags(flags: Flags): Flags | undefined {
    const match = /^\(\?([imx]*)(?:-([imx]*))?\)/.exec(this.#source.slice(this.#at, this.#at + 16));
    if (match === null) return undefined;
    this.#at += match[0].length;
    return withFlags(flags, match[1] ?? '', match[2] ?? '');
  }

  #quantified(atom: string): string {
    let result = atom;
    for (;;) {
      const interval = /^\{(\d*)(,?)(\d*)\}/.exec(this.#source.slice(this.#at, this.#at + 32));
      if (interval !== null && (interval[1] !== '' || interval[3] !== '')) {
        this.#at += interval[0].length;
        const [, low = '', comma = '', high = ''] = interval;
        if (high !== '' && Number(low) > Number(high)) throw this.#malformed('a range that ends before it starts');
        result += `{${low === '' ? '0' : low}${comma}${high}}`;
        // `{n}?` is an optional group here, not a lazy one; `{n,m}+` repeats the group.
        if (comma !== '') result += this.#eat('?') ? '?' : '';
        result = `(?:${result})`;
        continue;
      }
      const sign = this.#source[this.#at];
      if (sign !== '*' && sign !== '+' && sign !== '?') return result;
      this.#at++;
      if (result === '') throw this.#malformed('nothing to repeat');
      if (this.#eat('+')) result = this.#atomic(result + sign);
      else if (this.#eat('?')) result = `(?:${result}${sign}?)`;
      else {
        result += sign;
        const more = this.#source[this.#at];
        if (more === '*' || more === '+' || more === '?' || more === '{') result = `(?:${result})`;
        else return result;
      }
    }
  }

  /** JavaScript has no atomic groups; a lookahead never gives back what it matched. */
  #atomic(body: string): string {
    const name = `atomic${this.#atomicGroups++}`;
    return `(?:(?=(?<${name}>${body}))\\k<${name}>)`;
  }

  #atom(flags: Flags): string {
    const char = this.#next();
    switch (char) {
      case '(':
        return this.#group(flags);
      case '[': {
        const bracket = classOfBracket(this.#source, this.#at, flags.ignoreCase);
        if (typeof bracket === 'string') throw this.#malformed(bracket);
        this.#at = bracket.end;
        this.usesSets ||= bracket.needsSets;
        return bracket.source;
      }
      case '.':
        return flags.dotAll ? '[\\s\\S]' : '[^\\n]';
      case '^':
        return '(?:^|(?<=\\n)(?!$))';
      case '$':
        return '(?=\\n|$)';
      case '\\':
        return this.#escape(flags);
      case '*':
      case '+':
      case '?':
        throw this.#malformed('nothing to repeat');
      default:
        return foldedLiteral(char, flags.ignoreCase);
    }
  }

  #group(flags: Flags): string {
    const close = (open: string, inner: Flags = flags): string => {
      const body = this.#alternatives(inner);
      if (!this.#eat(')')) throw this.#malformed('missing )');
      return `${open}${body})`;
    };
    if (!this.#eat('?')) {
      // Unnamed captures do not capture beside named ones; numbers only matter to \1.
      return close(`(?<capture${++this.#captures}>`);
    }
    for (const open of [':', '=', '!', '<=', '<!']) if (this.#eat(open)) return close(`(?${open}`);
    if (this.#eat('>')) return this.#atomic(close('(?:'));
    if (this.#eat('#')) {
      const end = this.#source.indexOf(')', this.#at);
      if (end < 0) throw this.#malformed('an unterminated comment');
      this.#at = end + 1;
      return '';
    }
    const named = /^(?:<|')([A-Za-z_]\w*)[>']/.exec(this.#source.slice(this.#at, this.#at + 100));
    if (named !== null) {
      this.#at += named[0].length;
      this.#captures++;
      return close(`(?<named_${named[1]}>`);
    }
    const scoped = /^([imx]*)(?:-([imx]*))?:/.exec(this.#source.slice(this.#at, this.#at + 16));
    if (scoped !== null) {
      this.#at += scoped[0].length;
      return close('(?:', withFlags(flags, scoped[1] ?? '', scoped[2] ?? ''));
    }
    throw this.#unsupported(`(?${this.#source.slice(this.#at, this.#at + 3)}`);
  }

  #escape(flags: Flags): string {
    const char = this.#next();
    switch (char) {
      case 'A':
        return '^';
      case 'z':
        return '$';
      case 'Z':
        return '(?=\\n?$)';
      case 'b':
        return WORD_BOUNDARY;
      case 'B':
        return NOT_WORD_BOUNDARY;
      case 'R':
        return LINE_BREAK;
      case 'N':
        return '[^\\n]';
      case 'O':
        return '[\\s\\S]';
      case 'w':
        return WORD;
      case 'W':
        return `[^${WORD_MEMBERS}]`;
      case 'k': {
        const name = /^<([A-Za-z_]\w*)>|^'([A-Za-z_]\w*)'/.exec(this.#source.slice(this.#at, this.#at + 100));
        if (name === null) throw this.#unsupported('a back-reference by number');
        this.#at += name[0].length;
        return `\\k<named_${name[1] ?? name[2]}>`;
      }
      case 'G':
      case 'K':
      case 'X':
      case 'Y':
      case 'y':
      case 'g':
        throw this.#unsupported(`\\${char}`);
    }
    if (char >= '1' && char <= '9') {
      const digits = /^\d*/.exec(this.#source.slice(this.#at, this.#at + 3))?.[0] ?? '';
      const number = Number(char + digits);
      if (number > this.#captures) throw this.#malformed(`\\${number} refers to no group`);
      this.#at += digits.length;
      return `\\k<capture${number}>`;
    }
    const escaped = characterClass(this.#source, this.#at - char.length, flags.ignoreCase);
    if (typeof escaped === 'string') throw this.#malformed(escaped);
    this.#at = escaped.end;
    this.usesSets ||= escaped.needsSets;
    return escaped.source;
  }
}

function withFlags(flags: Flags, on: string, off: string): Flags {
  const pick = (letter: string, value: boolean): boolean => (value || on.includes(letter)) && !off.includes(letter);
  return {
    ignoreCase: pick('i', flags.ignoreCase),
    dotAll: pick('m', flags.dotAll),
    extended: pick('x', flags.extended),
  };
}
