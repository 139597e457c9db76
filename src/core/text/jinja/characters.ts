/** Text as Python sees it: a sequence of code points, with Python's classes of characters. */

/** What `str.isspace` and `\s` take for space. */
export const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const ONLY_SPACE = new RegExp(`^[${SPACE}]+$`);
const NOT_SPACE = new RegExp(`[^${SPACE}]+`, 'g');
/** What ends a line for `str.splitlines`, as part of a class of characters. */
const LINE_BREAKS = '\\n-\\r\\x1c-\\x1e\\x85\\u2028\\u2029';
const LINE_END = new RegExp(`\\r\\n|[${LINE_BREAKS}]`, 'g');
const PAIR = /[\ud800-\udbff][\udc00-\udfff]/;
/** Digits that are no decimal digits: superscripts, circled and old ones. */
const OTHER_DIGIT =
  '\\xb2\\xb3\\xb9\\u1369-\\u1371\\u19da\\u2070\\u2074-\\u2079\\u2080-\\u2089\\u2460-\\u2468\\u2474-\\u247c\\u2488-\\u2490' +
  '\\u24ea\\u24f5-\\u24fd\\u24ff\\u2776-\\u277e\\u2780-\\u2788\\u278a-\\u2792\\u{10a40}-\\u{10a43}\\u{10e60}-\\u{10e68}' +
  '\\u{11052}-\\u{1105a}\\u{1f100}-\\u{1f10a}';
/** Ideographs that are numerals. */
const NUMERAL =
  '\\u3405\\u3483\\u382a\\u3b4d\\u4e00\\u4e03\\u4e07\\u4e09\\u4e5d\\u4e8c\\u4e94\\u4e96\\u4ebf\\u4ec0\\u4edf\\u4ee8\\u4f0d' +
  '\\u4f70\\u5104\\u5146\\u5169\\u516b\\u516d\\u5341-\\u5345\\u534c\\u53c1-\\u53c4\\u56db\\u58f1\\u58f9\\u5e7a\\u5efe\\u5eff' +
  '\\u5f0c-\\u5f0e\\u5f10\\u62fe\\u634c\\u67d2\\u6f06\\u7396\\u767e\\u8086\\u842c\\u8cae\\u8cb3\\u8d30\\u9621\\u9646\\u964c' +
  '\\u9678\\u96f6\\uf96b\\uf973\\uf978\\uf9b2\\uf9d1\\uf9d3\\uf9fd\\u{20001}\\u{20064}\\u{200e2}\\u{20121}\\u{2092a}' +
  '\\u{20983}\\u{2098c}\\u{2099c}\\u{20aea}\\u{20afd}\\u{20b19}\\u{22390}\\u{22998}\\u{23b1b}\\u{2626d}\\u{2f890}';

const CLASSES = {
  alpha: /^\p{L}+$/u,
  decimal: /^\p{Nd}+$/u,
  digit: new RegExp(`^[\\p{Nd}${OTHER_DIGIT}]+$`, 'u'),
  numeric: new RegExp(`^[\\p{N}${NUMERAL}]+$`, 'u'),
  alnum: /^[\p{L}\p{N}]+$/u,
  space: ONLY_SPACE,
  identifier: /^[\p{XID_Start}_][\p{XID_Continue}]*$/u,
} as const;
const UNPRINTABLE = /[\p{C}\p{Z}]/u;
const CASED = /[\p{Lowercase}\p{Uppercase}\p{Lt}]/u;
const WITH_UPPER = /[\p{Uppercase}\p{Lt}]/u;
const WITH_LOWER = /[\p{Lowercase}\p{Lt}]/u;

export type CharacterClass = keyof typeof CLASSES;

/** Whether all characters, at least one, are of a class. */
export function isAll(name: CharacterClass, text: string): boolean {
  return CLASSES[name].test(text);
}

/** Whether `repr` shows the character as it is. */
export function isPrintable(character: string): boolean {
  return character === ' ' || !UNPRINTABLE.test(character);
}

export function isLower(text: string): boolean {
  return CASED.test(text) && !WITH_UPPER.test(text);
}

export function isUpper(text: string): boolean {
  return CASED.test(text) && !WITH_LOWER.test(text);
}

/** Whether code points and UTF-16 units differ. */
export function hasPairs(text: string): boolean {
  return PAIR.test(text);
}

/** Whether a code point takes the two units from `at` on. */
function isPair(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xd800 && (text.charCodeAt(at + 1) & 0xfc00) === 0xdc00;
}

/** Number of code points. */
export function charCount(text: string): number {
  if (!hasPairs(text)) return text.length;
  let count = 0;
  for (let at = 0; at < text.length; at += isPair(text, at) ? 2 : 1) count++;
  return count;
}

/** Code points `from` to `to`, both within the text. */
export function charSlice(text: string, from: number, to: number): string {
  if (!hasPairs(text)) return text.slice(from, to);
  const start = unitsOf(text, 0, from);
  return text.slice(start, unitsOf(text, start, to - from));
}

/** Where `count` code points from a position on end. */
function unitsOf(text: string, start: number, count: number): number {
  let at = start;
  for (let i = 0; i < count && at < text.length; i++) at += isPair(text, at) ? 2 : 1;
  return at;
}

/** How many code points stand before a UTF-16 position. */
export function charsBefore(text: string, position: number): number {
  return charCount(text.slice(0, position));
}

/** Orders texts by code points. */
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  const length = Math.min(a.length, b.length);
  let i = 0;
  while (i < length && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  if (i === length) return a.length - b.length;
  const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)];
  const [pairX, pairY] = [(x & 0xf800) === 0xd800, (y & 0xf800) === 0xd800];
  return pairX === pairY ? x - y : pairX ? 1 : -1;
}

/** The lines of a text, without their ends unless they are wanted. */
export function splitLines(text: string, keepEnds = false): string[] {
  const lines: string[] = [];
  let start = 0;
  for (const match of text.matchAll(LINE_END)) {
    const end = match.index + match[0].length;
    lines.push(text.slice(start, keepEnds ? end : match.index));
    start = end;
  }
  if (start < text.length) lines.push(text.slice(start));
  return lines;
}

/** The words between space. */
export function words(text: string): string[] {
  return text.match(NOT_SPACE) ?? [];
}

/** Whether a UTF-16 unit is space. */
export function isSpace(unit: number): boolean {
  if (unit <= 0x20) return unit === 0x20 || (unit >= 0x09 && unit <= 0x0d) || unit >= 0x1c;
  if (unit < 0x1680) return unit === 0x85 || unit === 0xa0;
  return (
    (unit >= 0x2000 && unit <= 0x200a) ||
    unit === 0x2028 ||
    unit === 0x2029 ||
    unit === 0x202f ||
    unit === 0x205f ||
    unit === 0x3000 ||
    unit === 0x1680
  );
}

export type Side = 'both' | 'left' | 'right';

/** Takes space, or the characters given, off the ends. */
export function strip(text: string, side: Side, chars?: string): string {
  if (chars !== undefined) return stripChars(text, side, new Set(chars));
  let start = 0;
  let end = text.length;
  if (side !== 'right') while (start < end && isSpace(text.charCodeAt(start))) start++;
  if (side !== 'left') while (end > start && isSpace(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
}

function stripChars(text: string, side: Side, chars: ReadonlySet<string>): string {
  let start = 0;
  let end = text.length;
  while (side !== 'right' && start < end) {
    const size = isPair(text, start) ? 2 : 1;
    if (!chars.has(text.slice(start, start + size))) break;
    start += size;
  }
  while (side !== 'left' && end > start) {
    const size = end - start > 1 && isPair(text, end - 2) ? 2 : 1;
    if (!chars.has(text.slice(end - size, end))) break;
    end -= size;
  }
  return text.slice(start, end);
}

/** The form of one character that begins a word. */
function titleChar(c: string): string {
  const code = c.codePointAt(0) as number;
  if (code >= 0x10d0 && code <= 0x10ff) return c;
  if (code >= 0x1c4 && code <= 0x1cc) return String.fromCharCode(0x1c5 + 3 * Math.floor((code - 0x1c4) / 3));
  if (code >= 0x1f1 && code <= 0x1f3) return '\u01f2';
  const upper = c.toUpperCase();
  if (upper.length === c.length) return upper;
  const [first = '', ...rest] = upper;
  return CASED.test(first) ? first + rest.join('').toLowerCase() : upper;
}

/** `str.capitalize`. */
export function capitalize(text: string): string {
  if (text === '') return '';
  const first = String.fromCodePoint(text.codePointAt(0) as number);
  return titleChar(first) + text.toLowerCase().slice(first.toLowerCase().length);
}

/** The small form of a character; a sigma at the end of a word has its own. */
function smallChar(chars: readonly string[], at: number): string {
  const c = chars[at] as string;
  if (c !== 'Σ') return c.toLowerCase();
  return CASED.test(chars[at - 1] ?? '') && !CASED.test(chars[at + 1] ?? '') ? 'ς' : 'σ';
}

/** `str.title`: every letter that follows no letter is large. */
export function titleCase(text: string): string {
  const chars = [...text];
  let inside = false;
  return chars
    .map((c, i) => {
      const shown = inside ? smallChar(chars, i) : titleChar(c);
      inside = CASED.test(c);
      return shown;
    })
    .join('');
}

/** `str.istitle`. */
export function isTitle(text: string): boolean {
  let inside = false;
  let found = false;
  for (const c of text) {
    const cased = CASED.test(c);
    if (cased && WITH_UPPER.test(c) === inside) return false;
    found ||= cased;
    inside = cased;
  }
  return found;
}

/** `str.swapcase`. */
export function swapCase(text: string): string {
  const chars = [...text];
  return chars.map((c, i) => (WITH_UPPER.test(c) ? smallChar(chars, i) : c.toUpperCase())).join('');
}

/** `str.casefold`. */
export function caseFold(text: string): string {
  return Array.from(text, (c) => (c === 'ı' ? c : c.toUpperCase().toLowerCase()))
    .join('')
    .replaceAll('ς', 'σ');
}

const HTML: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&#34;', "'": '&#39;' };

/** Text as HTML shows it. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (c) => HTML[c] as string);
}
