/** Character classes of the pattern language of tokenizer files: escapes, properties, brackets with set operations. */

/** A translated class: JavaScript source, where the original ends, whether it needs the `v` flag. */
export interface ClassSource {
  readonly source: string;
  readonly end: number;
  readonly needsSets: boolean;
}

/** Ranges longer than this keep their case in `(?i:…)`: no tokenizer folds whole scripts. */
const MAX_FOLDED_RANGE = 1024;

/** Members of a class. `nested` parts (complements of unions, intersections) are only sayable with the `v` flag. */
interface Members {
  plain: string;
  nested: string;
}

const GENERAL_CATEGORIES: ReadonlyMap<string, string> = new Map(
  (
    'L Letter Lu Uppercase_Letter Ll Lowercase_Letter Lt Titlecase_Letter LC Cased_Letter Lm Modifier_Letter ' +
    'Lo Other_Letter M Mark Mn Nonspacing_Mark Mc Spacing_Mark Me Enclosing_Mark N Number Nd Decimal_Number ' +
    'Nl Letter_Number No Other_Number P Punctuation Pc Connector_Punctuation Pd Dash_Punctuation ' +
    'Ps Open_Punctuation Pe Close_Punctuation Pi Initial_Punctuation Pf Final_Punctuation Po Other_Punctuation ' +
    'S Symbol Sm Math_Symbol Sc Currency_Symbol Sk Modifier_Symbol So Other_Symbol Z Separator Zs Space_Separator ' +
    'Zl Line_Separator Zp Paragraph_Separator C Other Cc Control Cf Format Cs Surrogate Co Private_Use Cn Unassigned'
  )
    .split(' ')
    .map((name, i, all) => [looseName(name), i % 2 === 0 ? name : all[i - 1]!] as const),
);

const BINARY_PROPERTIES: ReadonlyMap<string, string> = new Map(
  (
    'Any Assigned ASCII Alphabetic Uppercase Lowercase White_Space Emoji Emoji_Presentation Emoji_Modifier ' +
    'Emoji_Modifier_Base Emoji_Component Extended_Pictographic Ideographic Unified_Ideograph Hex_Digit ASCII_Hex_Digit ' +
    'ID_Start ID_Continue XID_Start XID_Continue Join_Control Dash Math Default_Ignorable_Code_Point Cased ' +
    'Case_Ignorable Diacritic Extender Grapheme_Base Grapheme_Extend Quotation_Mark Radical Variation_Selector ' +
    'Pattern_White_Space Pattern_Syntax Noncharacter_Code_Point Soft_Dotted Sentence_Terminal Terminal_Punctuation'
  )
    .split(' ')
    .map((name) => [looseName(name), name] as const),
);

const WORD = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}';

/** POSIX classes as members of a bracket; a leading `^` marks those that are complements. */
const POSIX: ReadonlyMap<string, string> = new Map([
  ['alpha', '\\p{Alphabetic}'],
  ['digit', '\\p{Nd}'],
  ['alnum', '\\p{Alphabetic}\\p{Nd}'],
  ['upper', '\\p{Uppercase}'],
  ['lower', '\\p{Lowercase}'],
  ['punct', '\\p{P}\\p{S}'],
  ['space', '\\p{White_Space}'],
  ['cntrl', '\\p{Cc}'],
  ['graph', '^\\p{White_Space}\\p{Cc}\\p{Cn}\\p{Cs}'],
  ['print', '^\\p{Zl}\\p{Zp}\\p{Cc}\\p{Cn}\\p{Cs}'],
  ['xdigit', '0-9A-Fa-f'],
  ['blank', '\\t\\p{Zs}'],
  ['word', WORD],
  ['ascii', '\\0-\\x7f'],
]);

function looseName(name: string): string {
  return name.toLowerCase().replaceAll(/[ _-]/g, '');
}

function codeEscape(code: number): string {
  return `\\u{${code.toString(16)}}`;
}

/** Characters that fold to the same one, itself included. */
function caseVariants(char: string): string[] {
  const variants = new Set([char]);
  for (const other of [char.toLowerCase(), char.toUpperCase()]) {
    if ([...other].length === 1) variants.add(other);
  }
  for (const other of [...variants]) {
    if (other === 's' || other === 'S') variants.add('\u017f');
    if (other === 'k' || other === 'K') variants.add('\u212a');
    if (other === 'å' || other === 'Å') variants.add('\u212b');
    if (other === 'ω' || other === 'Ω') variants.add('\u2126');
  }
  return [...variants];
}

/** A literal character outside brackets, in any case when `ignoreCase`. */
export function foldedLiteral(char: string, ignoreCase: boolean): string {
  const variants = ignoreCase ? caseVariants(char) : [char];
  const escaped = variants.map((c) => (/[A-Za-z0-9 '"_<>]/.test(c) ? c : codeEscape(c.codePointAt(0)!)));
  return escaped.length === 1 ? escaped[0]! : `[${escaped.join('')}]`;
}

/** A class or literal escape outside brackets; `at` points behind the backslash. A string result says what is wrong. */
export function characterClass(source: string, at: number, ignoreCase: boolean): ClassSource | string {
  const reader = new ClassReader(source, at, ignoreCase);
  try {
    const literal = reader.escapeLiteral();
    if (literal !== undefined) {
      return { source: foldedLiteral(String.fromCodePoint(literal), ignoreCase), end: reader.at, needsSets: false };
    }
    const members = reader.escapeClass();
    return { source: `[${members.plain}${members.nested}]`, end: reader.at, needsSets: members.nested !== '' };
  } catch (error) {
    if (error instanceof Malformed) return error.message;
    throw error;
  }
}

/** A bracket expression; `at` points behind the `[`. A string result says what is wrong. */
export function classOfBracket(source: string, at: number, ignoreCase: boolean): ClassSource | string {
  const reader = new ClassReader(source, at, ignoreCase);
  try {
    const { text, needsSets } = reader.bracket(0);
    return { source: text, end: reader.at, needsSets };
  } catch (error) {
    if (error instanceof Malformed) return error.message;
    throw error;
  }
}

class Malformed extends Error {}

const MAX_BRACKET_DEPTH = 50;

class ClassReader {
  readonly #source: string;
  readonly #ignoreCase: boolean;
  at: number;

  constructor(source: string, at: number, ignoreCase: boolean) {
    this.#source = source;
    this.#ignoreCase = ignoreCase;
    this.at = at;
  }

  #eat(text: string): boolean {
    if (!this.#source.startsWith(text, this.at)) return false;
    this.at += text.length;
    return true;
  }

  #next(): number {
    const code = this.#source.codePointAt(this.at);
    if (code === undefined) throw new Malformed('unexpected end');
    this.at += code > 0xffff ? 2 : 1;
    return code;
  }

  bracket(depth: number): { readonly text: string; readonly needsSets: boolean } {
    if (depth > MAX_BRACKET_DEPTH) throw new Malformed(`brackets nest deeper than ${MAX_BRACKET_DEPTH}`);
    const negated = this.#eat('^');
    const operands: Members[] = [];
    let members: Members = { plain: '', nested: '' };
    for (let first = true; ; first = false) {
      if (this.at >= this.#source.length) throw new Malformed('missing ]');
      if (this.#eat(']')) {
        // A bracket directly after the opening one is a member.
        if (!first) break;
        members.plain += codeEscape(0x5d);
      } else if (this.#eat('&&')) {
        operands.push(members);
        members = { plain: '', nested: '' };
      } else this.#member(members, depth);
    }
    operands.push(members);
    if (operands.length === 1) {
      return {
        text: `[${negated ? '^' : ''}${members.plain}${members.nested}]`,
        needsSets: members.nested !== '',
      };
    }
    const sets = operands.map((m) => `[${m.plain}${m.nested}]`).join('&&');
    return { text: `[${negated ? '^' : ''}${sets}]`, needsSets: true };
  }

  #member(members: Members, depth: number): void {
    const posix = /^\[:(\^?)(\w+):\]/.exec(this.#source.slice(this.at, this.at + 20));
    if (posix !== null) {
      const known = POSIX.get(posix[2]!);
      if (known === undefined) throw new Malformed(`an unknown class [:${posix[2]}:]`);
      this.at += posix[0].length;
      addUnion(members, known, posix[1] === '^');
      return;
    }
    if (this.#eat('[')) {
      members.nested += this.bracket(depth + 1).text;
      return;
    }
    const low = this.#singleOrClass(members);
    if (low === undefined) return;
    if (this.#source[this.at] !== '-' || this.#source[this.at + 1] === ']' || this.#source.startsWith('-&&', this.at)) {
      this.#addRange(members, low, low);
      return;
    }
    const dash = this.at++;
    if (this.#source[this.at] === '[') {
      this.at = dash;
      this.#addRange(members, low, low);
      return;
    }
    const high = this.#singleOrClass(members);
    if (high === undefined) {
      this.#addRange(members, low, low);
      this.#addRange(members, 0x2d, 0x2d);
      return;
    }
    if (high < low) throw new Malformed('a range that ends before it starts');
    this.#addRange(members, low, high);
  }

  /** One code point, or `undefined` after adding a class such as `\d`. */
  #singleOrClass(members: Members): number | undefined {
    if (!this.#eat('\\')) return this.#next();
    if (this.#eat('b')) return 8;
    const literal = this.escapeLiteral();
    if (literal !== undefined) return literal;
    const escaped = this.escapeClass();
    members.plain += escaped.plain;
    members.nested += escaped.nested;
    return undefined;
  }

  #addRange(members: Members, low: number, high: number): void {
    members.plain += low === high ? codeEscape(low) : `${codeEscape(low)}-${codeEscape(high)}`;
    if (!this.#ignoreCase || high - low > MAX_FOLDED_RANGE) return;
    for (let code = low; code <= high; code++) {
      for (const variant of caseVariants(String.fromCodePoint(code))) {
        const other = variant.codePointAt(0)!;
        if (other < low || other > high) members.plain += codeEscape(other);
      }
    }
  }

  /** The code point of a literal escape, or `undefined` (nothing read) for a class. */
  escapeLiteral(): number | undefined {
    const start = this.at;
    const char = String.fromCodePoint(this.#next());
    switch (char) {
      case 't':
        return 9;
      case 'n':
        return 10;
      case 'v':
        return 11;
      case 'f':
        return 12;
      case 'r':
        return 13;
      case 'a':
        return 7;
      case 'e':
        return 27;
      case 'x':
        return this.#hex(/^(?:\{([0-9a-fA-F]{1,8})\}|([0-9a-fA-F]{1,2}))/);
      case 'u':
        return this.#hex(/^([0-9a-fA-F]{4})/);
      case 'c':
        return this.#next() & 0x1f;
      case '0': {
        const digits = /^[0-7]{0,2}/.exec(this.#source.slice(this.at, this.at + 2))?.[0] ?? '';
        this.at += digits.length;
        return Number.parseInt(`0${digits}`, 8);
      }
    }
    if (/[a-zA-Z]/.test(char)) {
      this.at = start;
      return undefined;
    }
    return char.codePointAt(0)!;
  }

  #hex(form: RegExp): number {
    const match = form.exec(this.#source.slice(this.at, this.at + 10));
    if (match === null) throw new Malformed('a bad hexadecimal escape');
    this.at += match[0].length;
    const code = Number.parseInt(match[1] ?? match[2] ?? '', 16);
    if (code > 0x10ffff) throw new Malformed('a code point beyond Unicode');
    return code;
  }

  escapeClass(): Members {
    const members: Members = { plain: '', nested: '' };
    const char = String.fromCodePoint(this.#next());
    switch (char) {
      case 'd':
      case 'D':
        addUnion(members, '\\p{Nd}', char === 'D');
        break;
      case 's':
      case 'S':
        addUnion(members, '\\p{White_Space}', char === 'S');
        break;
      case 'h':
      case 'H':
        addUnion(members, '0-9A-Fa-f', char === 'H');
        break;
      case 'w':
      case 'W':
        addUnion(members, WORD, char === 'W');
        break;
      case 'p':
      case 'P':
        this.#property(members, char === 'P');
        break;
      default:
        throw new Malformed(`an unknown escape \\${char}`);
    }
    return members;
  }

  #property(members: Members, complement: boolean): void {
    const match = /^\{(\^?)([^{}]{1,60})\}/.exec(this.#source.slice(this.at, this.at + 64));
    if (match === null) throw new Malformed('a bad property');
    this.at += match[0].length;
    const negated = complement !== (match[1] === '^');
    const name = match[2]!;
    const loose = looseName(name);
    const known = GENERAL_CATEGORIES.get(loose) ?? BINARY_PROPERTIES.get(loose);
    if (known !== undefined) {
      members.plain += `\\${negated ? 'P' : 'p'}{${known}}`;
      return;
    }
    const posix = loose === 'punct' ? '\\p{P}' : POSIX.get(loose);
    if (posix !== undefined) {
      addUnion(members, posix, negated);
      return;
    }
    const script = scriptName(name);
    if (script === undefined) throw new Malformed(`an unknown property ${name}`);
    members.plain += `\\${negated ? 'P' : 'p'}{Script=${script}}`;
  }
}

/** Adds a union of members, or its complement; a leading `^` in `union` is a complement already. */
function addUnion(members: Members, union: string, complement: boolean): void {
  const inverted = union.startsWith('^');
  const body = inverted ? union.slice(1) : union;
  if (inverted === complement) members.plain += body;
  else if (/^\\p\{\w+\}$/.test(body)) members.plain += `\\P${body.slice(2)}`;
  else members.nested += `[^${body}]`;
}

function scriptName(name: string): string | undefined {
  const words = name.replace(/^(?:Is|Script=|sc=)/i, '').split(/[ _-]+|(?<=[a-z])(?=[A-Z])/);
  const title = words.map((w) => w.slice(0, 1).toUpperCase() + w.slice(1).toLowerCase()).join('_');
  for (const candidate of [title, name]) {
    if (!/^\w+$/.test(candidate)) continue;
    try {
      new RegExp(`\\p{Script=${candidate}}`, 'u');
      return candidate;
    } catch {
      // Not a script of this spelling.
    }
  }
  return undefined;
}
