/** Pre-tokenizers of tokenizer files: where text is cut before the model sees it. */
import {
  arrayField,
  booleanField,
  charField,
  type Fields,
  fieldsOf,
  integerField,
  malformed,
  oneOfField,
  stringField,
} from './fields.ts';
import { finderOf } from './normalize.ts';
import { charFinder, compilePattern, type Finder, literalFinder, regexFinder } from './pattern.ts';
import { ANY_SCRIPT, scriptFinder } from './scripts.ts';
import { isNumeric, isWhitespace, PUNCTUATION } from './unicode.ts';
import { toByteChars } from './utf8.ts';

/** Stretches of text in order; `heads` is `Draft.head` of each. Empty ones are left out. */
export class Pieces {
  readonly texts: string[] = [];
  readonly heads: number[] = [];

  add(text: string, head: number): void {
    if (text === '') return;
    this.texts.push(text);
    this.heads.push(head);
  }
}

/** Cuts one piece into others. */
export type Splitter = (text: string, head: number, out: Pieces) => void;

/** The steps of a pre-tokenizer, run one after the other over all pieces. */
export interface PreTokenizer {
  readonly steps: readonly Splitter[];
  /** The last step was the mapping into the byte alphabet and is left to the model. */
  readonly endsInBytes: boolean;
}

export type SplitBehavior = 'Removed' | 'Isolated' | 'MergedWithPrevious' | 'MergedWithNext' | 'Contiguous';
const BEHAVIORS = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const;

const MAX_DEPTH = 16;
/** No published file chains more. */
const MAX_STEPS = 256;
const MAX_FIXED_LENGTH = 1 << 20;

/** The split of GPT-2: contractions, then words, numbers and other runs with the space before them, then spaces. */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Compiles a pre-tokenizer. `bytesToModel`: the model can read plain text in place of byte characters. */
export function preTokenizerOf(value: unknown, path: string, bytesToModel: boolean): PreTokenizer {
  const steps: (Splitter | typeof BYTE_CHARS)[] = [];
  compile(value, path, 0, steps);
  return finishSteps(steps, bytesToModel);
}

/** The mapping into the byte alphabet, as a step. */
export const BYTE_CHARS = Symbol('byte alphabet');

export function finishSteps(steps: readonly (Splitter | typeof BYTE_CHARS)[], bytesToModel: boolean): PreTokenizer {
  const endsInBytes = bytesToModel && steps.indexOf(BYTE_CHARS) === steps.length - 1 && steps.length > 0;
  const kept = endsInBytes ? steps.slice(0, -1) : steps;
  return { steps: kept.map((step) => (step === BYTE_CHARS ? mapToByteChars : step)), endsInBytes };
}

const mapToByteChars: Splitter = (text, head, out) => {
  out.add(toByteChars(text), head > 0 ? toByteChars(text.slice(0, head)).length : 0);
};

function compile(value: unknown, path: string, depth: number, steps: (Splitter | typeof BYTE_CHARS)[]): void {
  const fields = fieldsOf(value, path);
  const type = stringField(fields, 'type');
  if (steps.length > MAX_STEPS) throw malformed(path, `at most ${MAX_STEPS} pre-tokenizers`, steps.length);
  switch (type) {
    case 'Sequence': {
      const items = arrayField(fields, 'pretokenizers');
      if (depth >= MAX_DEPTH) throw malformed(path, `sequences nested at most ${MAX_DEPTH} deep`, items);
      if (items.length > MAX_STEPS) throw malformed(path, `at most ${MAX_STEPS} pre-tokenizers`, items);
      items.forEach((item, i) => {
        compile(item, `${path}.pretokenizers[${i}]`, depth + 1, steps);
      });
      return;
    }
    case 'ByteLevel':
      if (booleanField(fields, 'add_prefix_space')) steps.push(spacePrefix);
      if (booleanField(fields, 'use_regex', true)) {
        steps.push(splitter(regexFinder(compilePattern(GPT2_PATTERN, path)), 'Isolated'));
      }
      steps.push(BYTE_CHARS);
      return;
    case 'Split':
      steps.push(splitter(finderOf(fields), oneOfField(fields, 'behavior', BEHAVIORS), booleanField(fields, 'invert')));
      return;
    case 'Metaspace':
      metaspaceSteps(fields, steps);
      return;
    case 'Whitespace':
      steps.push(splitter(regexFinder(WORDS()), 'Removed', true));
      return;
    case 'WhitespaceSplit':
      steps.push(splitter(charFinder(isWhitespace), 'Removed'));
      return;
    case 'BertPreTokenizer':
      steps.push(splitter(charFinder(isWhitespace), 'Removed'), splitter(charFinder(isPunctuation), 'Isolated'));
      return;
    case 'Punctuation':
      steps.push(splitter(charFinder(isPunctuation), oneOfField(fields, 'behavior', BEHAVIORS, 'Isolated')));
      return;
    case 'Digits':
      steps.push(
        splitter(charFinder(isNumeric), booleanField(fields, 'individual_digits') ? 'Isolated' : 'Contiguous'),
      );
      return;
    case 'CharDelimiterSplit':
    case 'Delimiter':
      steps.push(splitter(literalFinder(charField(fields, 'delimiter')), 'Removed'));
      return;
    case 'FixedLength':
      steps.push(fixedLength(integerField(fields, 'length', 1, MAX_FIXED_LENGTH, 5)));
      return;
    case 'UnicodeScripts':
      steps.push(byScript(scriptFinder()));
      return;
    default:
      throw malformed(
        `${path}.type`,
        'Sequence | ByteLevel | Split | Metaspace | Whitespace | WhitespaceSplit | BertPreTokenizer | Punctuation | Digits | CharDelimiterSplit | FixedLength | UnicodeScripts',
        type,
      );
  }
}

const WORDS = (): RegExp =>
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;

function isPunctuation(code: number): boolean {
  return PUNCTUATION.has(code);
}

const spacePrefix: Splitter = (text, head, out) => {
  if (text.startsWith(' ')) out.add(text, head);
  else out.add(` ${text}`, head > 0 ? head + 1 : 0);
};

function metaspaceSteps(fields: Fields, steps: (Splitter | typeof BYTE_CHARS)[]): void {
  const replacement = charField(fields, 'replacement');
  // Files of old have a switch in place of the scheme.
  const absent = fields.value['add_prefix_space'] === false ? 'never' : 'always';
  const scheme = oneOfField(fields, 'prepend_scheme', ['first', 'never', 'always'], absent);
  steps.push(metaspaceMark(replacement, scheme));
  if (booleanField(fields, 'split', true)) {
    steps.push(splitter(literalFinder(replacement), 'MergedWithNext'));
  }
}

/** Spaces become the mark, and one stands before the text: always, before the very first text only, or never. */
export function metaspaceMark(replacement: string, scheme: 'first' | 'never' | 'always'): Splitter {
  return (text, head, out) => {
    const marked = text.replaceAll(' ', replacement);
    // Only the astral planes have marks longer than the space they replace.
    const markedHead = replacement.length === 1 ? head : text.slice(0, head).replaceAll(' ', replacement).length;
    const wanted = scheme === 'always' || (scheme === 'first' && head > 0);
    if (wanted && !marked.startsWith(replacement)) {
      out.add(replacement + marked, head > 0 ? markedHead + replacement.length : 0);
    } else out.add(marked, markedHead);
  };
}

function fixedLength(length: number): Splitter {
  return (text, head, out) => {
    let start = 0;
    let count = 0;
    for (let i = 0; i < text.length; ) {
      i += text.codePointAt(i)! > 0xffff ? 2 : 1;
      if (++count < length && i < text.length) continue;
      out.add(text.slice(start, i), Math.max(0, head - start));
      start = i;
      count = 0;
    }
  };
}

/** A cut before every change of script. Leading characters without a script are lost: the trained behaviour. */
function byScript(scriptOf: (code: number) => number): Splitter {
  return (text, head, out) => {
    let last = -1;
    let start = -1;
    for (let i = 0; i < text.length; ) {
      const code = text.codePointAt(i)!;
      const script = scriptOf(code);
      if (script !== ANY_SCRIPT) {
        if (script !== last) {
          if (start >= 0) out.add(text.slice(start, i), Math.max(0, head - start));
          start = i;
        }
        last = script;
      }
      i += code > 0xffff ? 2 : 1;
    }
    if (start >= 0) out.add(text.slice(start), Math.max(0, head - start));
  };
}

/** Cuts at the matches of a finder (at what lies between them when `invert`); `behavior` says where the matches go. */
export function splitter(finder: Finder, behavior: SplitBehavior, invert = false): Splitter {
  if (behavior === 'Isolated') return isolating(finder);
  if (behavior === 'Removed') return removing(finder, invert);
  return (text, head, out) => {
    const bounds = mergedBounds(finder, behavior, invert, text);
    for (let i = 0; i + 1 < bounds.length; i += 2) {
      out.add(text.slice(bounds[i], bounds[i + 1]), Math.max(0, head - bounds[i]!));
    }
  };
}

function isolating(finder: Finder): Splitter {
  return (text, head, out) => {
    let done = 0;
    finder.find(text, (start, end) => {
      if (start > done) out.add(text.slice(done, start), head > done ? head - done : 0);
      if (end > start) out.add(text.slice(start, end), head > start ? head - start : 0);
      done = end;
    });
    if (done === 0) out.add(text, head);
    else if (done < text.length) out.add(text.slice(done), head > done ? head - done : 0);
  };
}

function removing(finder: Finder, invert: boolean): Splitter {
  return (text, head, out) => {
    let done = 0;
    finder.find(text, (start, end) => {
      if (invert) out.add(text.slice(start, end), Math.max(0, head - start));
      else if (start > done) out.add(text.slice(done, start), Math.max(0, head - done));
      done = end;
    });
    if (!invert && done < text.length) out.add(text.slice(done), Math.max(0, head - done));
  };
}

/** Start and end of each part, pairwise, for the behaviours that join matches with their neighbours. */
function mergedBounds(finder: Finder, behavior: SplitBehavior, invert: boolean, text: string): number[] {
  const parts: { start: number; end: number; match: boolean }[] = [];
  let done = 0;
  finder.find(text, (start, end) => {
    if (start > done) parts.push({ start: done, end: start, match: invert });
    parts.push({ start, end, match: !invert });
    done = end;
  });
  if (done < text.length) parts.push({ start: done, end: text.length, match: invert });
  if (behavior === 'MergedWithNext') parts.reverse();
  const joined: { start: number; end: number }[] = [];
  let previous = false;
  for (const part of parts) {
    const last = joined.at(-1);
    const joins = behavior === 'Contiguous' ? part.match === previous : part.match && !previous;
    previous = part.match;
    if (last === undefined || !joins) joined.push({ start: part.start, end: part.end });
    else if (behavior === 'MergedWithNext') last.start = part.start;
    else last.end = part.end;
  }
  if (behavior === 'MergedWithNext') joined.reverse();
  return joined.flatMap(({ start, end }) => [start, end]);
}
