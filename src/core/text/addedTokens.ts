/** Tokens that are found in the text before it is normalized and split: control tokens and other whole units. */
import { isWhitespace, textForPattern } from './unicode.ts';
import { encodeUtf8 } from './utf8.ts';

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Not inside a word. */
  readonly singleWord: boolean;
  /** Takes the white space before it along. */
  readonly lstrip: boolean;
  /** Takes the white space after it along. */
  readonly rstrip: boolean;
  /** Looked for in normalized text. */
  readonly normalized: boolean;
  /** Left out of decoded text on demand, and read as plain text when special tokens are not to be parsed. */
  readonly special: boolean;
}

/** A part of a text: a token, or plain text when `id` is undefined. */
export interface TextPart {
  readonly start: number;
  readonly end: number;
  readonly id: number | undefined;
}

/**
 * Which of overlapping tokens counts: `leftmost` the first, then the longest, in one pass; `longestFirst` the longest
 * anywhere in the text, then the next, as GGUF vocabularies are meant.
 */
export type MatchOrder = 'leftmost' | 'longestFirst';

interface Entry {
  readonly token: AddedToken;
  readonly pattern: string;
}

/** Finds tokens in text. Built on first use. */
export class TokenMatcher {
  readonly #entries: readonly Entry[];
  readonly #order: MatchOrder;
  #patterns: SortedPatterns | undefined;

  constructor(entries: readonly Entry[], order: MatchOrder) {
    this.#entries = entries.filter(({ pattern }) => pattern !== '');
    this.#order = order;
  }

  /** The parts of a text, in order. `plainSpecials`: special tokens are plain text. */
  parts(text: string, plainSpecials: boolean): readonly TextPart[] {
    if (text === '') return [];
    if (this.#entries.length === 0) return [{ start: 0, end: text.length, id: undefined }];
    const patterns = (this.#patterns ??= new SortedPatterns(this.#entries));
    return this.#order === 'leftmost'
      ? leftmost(patterns, text, plainSpecials)
      : longestFirst(patterns, text, plainSpecials);
  }
}

function leftmost(patterns: SortedPatterns, text: string, plainSpecials: boolean): TextPart[] {
  const parts: TextPart[] = [];
  let done = 0;
  for (let at = 0; at < text.length; ) {
    if (!patterns.mayStartWith(text.charCodeAt(at))) {
      at++;
      continue;
    }
    let entry: Entry | undefined;
    patterns.matchesAt(text, at, (found) => {
      entry = found;
    });
    if (entry === undefined) {
      at++;
      continue;
    }
    const { token, pattern } = entry as Entry;
    let start = at;
    let end = at + pattern.length;
    // A match that does not count still hides the ones inside it.
    at = end;
    if (plainSpecials && token.special) continue;
    if (token.singleWord && (isWordBefore(text, start) || isWordAt(text, end))) continue;
    if (token.lstrip) {
      while (start > done && isWhitespace(text.charCodeAt(start - 1))) start--;
      start = Math.max(start, done);
    }
    if (token.rstrip) while (end < text.length && isWhitespace(text.charCodeAt(end))) end++;
    if (start > done) parts.push({ start: done, end: start, id: undefined });
    // White space taken along may reach over later matches; what is nothing but white space is gone then.
    if (start < end) parts.push({ start, end, id: token.id });
    done = Math.max(done, end);
  }
  if (done < text.length) parts.push({ start: done, end: text.length, id: undefined });
  return parts;
}

function longestFirst(patterns: SortedPatterns, text: string, plainSpecials: boolean): readonly TextPart[] {
  const seen = new Set<Entry>();
  for (let at = 0; at < text.length; at++) {
    if (!patterns.mayStartWith(text.charCodeAt(at))) continue;
    patterns.matchesAt(text, at, (entry) => {
      if (!(plainSpecials && entry.token.special)) seen.add(entry);
    });
  }
  const bytes = (entry: Entry): number => encodeUtf8(entry.pattern).length;
  let parts: readonly TextPart[] = [{ start: 0, end: text.length, id: undefined }];
  for (const entry of [...seen].sort((a, b) => bytes(b) - bytes(a) || a.token.id - b.token.id)) {
    parts = cutOut(text, parts, entry);
  }
  return parts;
}

/** Patterns in the order of their code units, so that those with a given beginning are neighbours. */
class SortedPatterns {
  readonly #sorted: readonly Entry[];
  /** First and last-plus-one index of the patterns that start with a code unit. */
  readonly #groups = new Map<number, readonly [number, number]>();
  /** Whether some pattern starts with an ASCII character. */
  readonly #starts = new Uint8Array(128);

  constructor(entries: readonly Entry[]) {
    // Of several tokens with one pattern the last counts.
    const byPattern = new Map(entries.map((entry) => [entry.pattern, entry]));
    this.#sorted = [...byPattern.values()].sort((a, b) => (a.pattern < b.pattern ? -1 : 1));
    this.#sorted.forEach(({ pattern }, i) => {
      const first = pattern.charCodeAt(0);
      this.#groups.set(first, [this.#groups.get(first)?.[0] ?? i, i + 1]);
      if (first < 128) this.#starts[first] = 1;
    });
  }

  mayStartWith(unit: number): boolean {
    return unit < 128 ? this.#starts[unit] === 1 : this.#groups.has(unit);
  }

  /** The patterns that a text has at a place, shortest first. */
  matchesAt(text: string, at: number, onMatch: (entry: Entry) => void): void {
    let [low, high] = this.#groups.get(text.charCodeAt(at)) ?? [0, 0];
    for (let depth = 1; low < high; depth++) {
      const shortest = this.#sorted[low]!;
      if (shortest.pattern.length === depth) {
        onMatch(shortest);
        low++;
      }
      if (at + depth >= text.length) return;
      const unit = text.charCodeAt(at + depth);
      low = this.#boundary(low, high, depth, unit);
      high = this.#boundary(low, high, depth, unit + 1);
    }
  }

  /** The first index in a range of patterns, equal up to `depth`, whose code unit there is at least `unit`. */
  #boundary(low: number, high: number, depth: number, unit: number): number {
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#sorted[middle]!.pattern.charCodeAt(depth) < unit) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Cuts all occurrences of one token out of the plain parts. White space is that of ASCII here. */
function cutOut(text: string, parts: readonly TextPart[], { token, pattern }: Entry): readonly TextPart[] {
  const result: TextPart[] = [];
  let at = text.indexOf(pattern);
  for (const part of parts) {
    let from = part.start;
    while (part.id === undefined && from < part.end) {
      // The search goes on from the last find, so that a text with many parts is searched once.
      if (at >= 0 && at < from) at = text.indexOf(pattern, from);
      const end = at + pattern.length;
      if (at < 0 || end > part.end) break;
      let left = at;
      if (token.lstrip) while (left > from && isAsciiSpace(text.charCodeAt(left - 1))) left--;
      if (left > from) result.push({ start: from, end: left, id: undefined });
      result.push({ start: at, end, id: token.id });
      from = end;
      if (token.rstrip) while (from < part.end && isAsciiSpace(text.charCodeAt(from))) from++;
    }
    if (from < part.end) result.push(from === part.start ? part : { start: from, end: part.end, id: undefined });
  }
  return result;
}

function isAsciiSpace(code: number): boolean {
  return code === 0x20 || (code >= 9 && code <= 13);
}

const WORD_START = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const WORD_END = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;

function isWordBefore(text: string, at: number): boolean {
  return WORD_END.test(textForPattern(text.slice(Math.max(0, at - 2), at)));
}

function isWordAt(text: string, at: number): boolean {
  return WORD_START.test(textForPattern(text.slice(at, at + 2)));
}
