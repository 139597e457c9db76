/** Normalizers of tokenizer files: what happens to text before it is split. */
import { charsmapOf } from './charsmap.ts';
import {
  arrayField,
  booleanField,
  type Fields,
  fieldsOf,
  malformed,
  objectField,
  optionalString,
  stringField,
} from './fields.ts';
import { type Finder, literalFinder, patternFinder } from './pattern.ts';
import {
  BERT_CONTROL,
  COMBINING_MARK,
  isBertIdeograph,
  isWhitespace,
  lowerCase,
  NONSPACING_MARK,
  type NormalForm,
  normalForm,
} from './unicode.ts';
import { toByteChars } from './utf8.ts';

/**
 * Text on its way through the normalizers. `head` counts the leading code units that come from the very first character
 * of the input: the Metaspace scheme "first" puts its mark before those only, whatever was inserted or removed.
 */
export interface Draft {
  text: string;
  head: number;
}

/** Changes a draft in place. */
export type Normalizer = (draft: Draft) => void;

const MAX_DEPTH = 16;
/** No published file chains more. */
const MAX_STEPS = 256;

export function normalizerOf(value: unknown, path: string, depth = 0): Normalizer {
  const fields = fieldsOf(value, path);
  const type = stringField(fields, 'type');
  switch (type) {
    case 'Sequence':
      return sequence(fields, depth);
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
      return normalFormer(type);
    case 'Lowercase':
      return perPart(lowerCase);
    case 'Strip':
      return stripper(booleanField(fields, 'strip_left'), booleanField(fields, 'strip_right'));
    case 'StripAccents':
      return filter((code) => !COMBINING_MARK.has(code));
    case 'Nmt':
      return nmt;
    case 'Prepend':
      return prepender(stringField(fields, 'prepend'));
    case 'Replace':
      return replacer(finderOf(fields), stringField(fields, 'content'));
    case 'Precompiled':
      return charsmapOf(optionalString(fields, 'precompiled_charsmap') ?? '', `${path}.precompiled_charsmap`);
    case 'ByteLevel':
      return perPart(toByteChars);
    case 'Bert':
    case 'BertNormalizer':
      return bert(fields);
    default:
      throw malformed(
        `${path}.type`,
        'Sequence | NFC | NFD | NFKC | NFKD | Lowercase | Strip | StripAccents | Nmt | Prepend | Replace | Precompiled | ByteLevel | BertNormalizer',
        type,
      );
  }
}

/** `pattern` of Replace and Split: `{ "String": … }` or `{ "Regex": … }`. */
export function finderOf(fields: Fields): Finder {
  const pattern = objectField(fields, 'pattern');
  const literal = optionalString(pattern, 'String');
  if (literal !== undefined) return literalFinder(literal);
  return patternFinder(stringField(pattern, 'Regex'), `${pattern.path}.Regex`);
}

function sequence(fields: Fields, depth: number): Normalizer {
  const items = arrayField(fields, 'normalizers');
  const path = `${fields.path}.normalizers`;
  if (depth >= MAX_DEPTH) throw malformed(path, `sequences nested at most ${MAX_DEPTH} deep`, items);
  if (items.length > MAX_STEPS) throw malformed(path, `at most ${MAX_STEPS} normalizers`, items);
  return inSequence(items.map((item, i) => normalizerOf(item, `${path}[${i}]`, depth + 1)));
}

export function inSequence(steps: readonly Normalizer[]): Normalizer {
  return (draft) => {
    for (const step of steps) step(draft);
  };
}

/** A change that treats every character by itself, so that the head can be changed apart. */
function perPart(change: (text: string) => string): Normalizer {
  return (draft) => {
    if (draft.head > 0) draft.head = change(draft.text.slice(0, draft.head)).length;
    draft.text = change(draft.text);
  };
}

function filter(keep: (code: number) => boolean): Normalizer {
  return perPart((text) => {
    let kept = '';
    let start = 0;
    for (let i = 0; i < text.length; ) {
      const code = text.codePointAt(i)!;
      const next = i + (code > 0xffff ? 2 : 1);
      if (!keep(code)) {
        kept += text.slice(start, i);
        start = next;
      }
      i = next;
    }
    return start === 0 ? text : kept + text.slice(start);
  });
}

function normalFormer(form: NormalForm): Normalizer {
  const decomposition = form.startsWith('NFK') ? 'NFKD' : 'NFD';
  return (draft) => {
    const { text, head } = draft;
    draft.text = normalForm(text, form);
    if (head === 0 || draft.text === text) return;
    // Of the result, that part is still head whose decomposition starts within the decomposed head.
    let left = normalForm(text.slice(0, head), decomposition).length;
    draft.head = 0;
    for (const char of draft.text) {
      if (left <= 0) break;
      left -= normalForm(char, decomposition).length;
      draft.head += char.length;
    }
  };
}

function stripper(left: boolean, right: boolean): Normalizer {
  return (draft) => {
    const { text } = draft;
    let start = 0;
    let end = text.length;
    if (left) while (start < end && isWhitespace(text.charCodeAt(start))) start++;
    if (right) while (end > start && isWhitespace(text.charCodeAt(end - 1))) end--;
    draft.text = text.slice(start, end);
    draft.head = Math.max(0, draft.head - start);
  };
}

/** Puts a text before any non-empty one. */
export function prepender(prefix: string): Normalizer {
  return (draft) => {
    if (draft.text === '') return;
    draft.text = prefix + draft.text;
    if (draft.head > 0) draft.head += prefix.length;
  };
}

export function replacer(finder: Finder, content: string): Normalizer {
  return (draft) => {
    const { text, head } = draft;
    let result = '';
    let newHead = 0;
    let done = 0;
    finder.find(text, (start, end) => {
      result += text.slice(done, start);
      // A replacement belongs to the last character it replaces, or to the one before an empty match.
      if (start <= head && Math.max(end, 1) <= head) newHead = result.length + content.length;
      else if (done <= head && head <= start) newHead = result.length - (start - head);
      result += content;
      done = end;
    });
    if (done === 0 && result === '') return;
    if (done < head) newHead = result.length + head - done;
    draft.text = result + text.slice(done);
    draft.head = newHead;
  };
}

const nmt = inSequence([
  filter(
    (code) =>
      !((code >= 1 && code <= 8) || code === 0xb || (code >= 0xe && code <= 0x1f)) &&
      !(code === 0x7f || code === 0x8f || code === 0x9f),
  ),
  perPart((text) => text.replace(/[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/gu, ' ')),
]);

function bert(fields: Fields): Normalizer {
  const lowercase = booleanField(fields, 'lowercase');
  const steps: Normalizer[] = [];
  if (booleanField(fields, 'clean_text')) {
    steps.push(
      filter((code) => code === 9 || code === 10 || code === 13 || !BERT_CONTROL.has(code)),
      perPart((text) => text.replace(/\p{White_Space}/gu, ' ')),
    );
  }
  if (booleanField(fields, 'handle_chinese_chars')) steps.push(perPart(spaceIdeographs));
  if (booleanField(fields, 'strip_accents', lowercase)) {
    steps.push(
      normalFormer('NFD'),
      filter((code) => !NONSPACING_MARK.has(code)),
    );
  }
  if (lowercase) steps.push(perPart(lowerCase));
  return inSequence(steps);
}

function spaceIdeographs(text: string): string {
  if (!/[^\0-\u33ff]/.test(text)) return text;
  let spaced = '';
  for (const char of text) spaced += isBertIdeograph(char.codePointAt(0)!) ? ` ${char} ` : char;
  return spaced;
}
