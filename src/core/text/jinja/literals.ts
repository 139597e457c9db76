/** Numbers and strings as templates write them. */
import { codeEscape } from './show.ts';
import type { Int } from './values.ts';
import { Float, int } from './values.ts';

const MAX_INT_DIGITS = 4300;
const ESCAPE = /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([\s\S]))/gu;
const SIMPLE: Readonly<Record<string, string>> = {
  '\n': '',
  '\\': '\\',
  "'": "'",
  '"': '"',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

/** The text of a string literal, its quotes taken off; `undefined` where an escape is none. */
export function readString(body: string): string | undefined {
  if (!body.includes('\\')) return body;
  let valid = true;
  const text = body.replace(ESCAPE, (all, octal?: string, ...rest: (string | undefined)[]) => {
    const [byte, short, long, other = ''] = rest;
    const hex = byte ?? short ?? long;
    const code = octal === undefined ? Number.parseInt(hex ?? '', 16) : Number.parseInt(octal, 8);
    if (octal !== undefined || hex !== undefined) {
      if (code <= 0x10ffff) return String.fromCodePoint(code);
      valid = false;
      return all;
    }
    // Names of characters are not known here; cut-off codes are errors.
    if ('xuUN'.includes(other)) valid = false;
    // A backslash before a character beyond ASCII leaves that one's code as text.
    if (other > '\x7f') return codeEscape(other);
    return SIMPLE[other] ?? all;
  });
  return valid ? text : undefined;
}

/** `undefined` for a number of too many digits. */
export function readInteger(text: string): Int | undefined {
  const digits = text.replaceAll('_', '').toLowerCase();
  return digits.length > MAX_INT_DIGITS ? undefined : int(BigInt(digits));
}

export function readFloat(text: string): Float {
  return new Float(Number(text.replaceAll('_', '')));
}
