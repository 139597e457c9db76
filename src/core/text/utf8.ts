/** UTF-8 and the byte alphabet of byte-level vocabularies. */

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** The bytes of a text. Lone surrogates become U+FFFD. */
export function encodeUtf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** Writes the bytes of a text into `target` (which holds at least three bytes per code unit) and returns their number. */
export function encodeUtf8Into(text: string, target: Uint8Array): number {
  return encoder.encodeInto(text, target).written;
}

/** Text of bytes; each maximal malformed part becomes U+FFFD. */
export function decodeUtf8(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** The text with lone surrogates replaced by U+FFFD, as any UTF-8 encoder would. */
export function wellFormed(text: string): string {
  return /\p{Surrogate}/u.test(text) ? text.replace(/\p{Surrogate}/gu, '\ufffd') : text;
}

/** The character that stands for each byte in a byte-level vocabulary: itself where visible, else from U+0100 on. */
export const BYTE_CHARS: readonly string[] = Array.from({ length: 256 }, (_, byte) =>
  String.fromCharCode(charCodeOfByte(byte)),
);

/** One more than the largest code of the byte alphabet. */
const ALPHABET_END = 0x144;

const BYTES_OF_CHARS = ((): Int16Array => {
  const table = new Int16Array(ALPHABET_END).fill(-1);
  for (let byte = 0; byte < 256; byte++) table[charCodeOfByte(byte)] = byte;
  return table;
})();

function charCodeOfByte(byte: number): number {
  if (byte <= 0x20) return 0x100 + byte;
  if (byte < 0x7f) return byte;
  if (byte <= 0xa0) return 0x121 + byte - 0x7f;
  return byte === 0xad ? 0x143 : byte;
}

/** The byte that a character of the byte alphabet stands for, or -1. */
export function byteOfChar(code: number): number {
  return code < ALPHABET_END ? BYTES_OF_CHARS[code]! : -1;
}

/** The UTF-8 bytes of a text, each as its character of the byte alphabet. */
export function toByteChars(text: string): string {
  let mapped = '';
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code > 0x20 && code < 0x7f) continue;
    mapped += text.slice(start, i);
    if (code < 0x80) mapped += BYTE_CHARS[code]!;
    else {
      const end = i + ((code & 0xfc00) === 0xd800 ? 2 : 1);
      for (const byte of encodeUtf8(text.slice(i, end))) mapped += BYTE_CHARS[byte]!;
      i = end - 1;
    }
    start = i + 1;
  }
  return start === 0 ? text : mapped + text.slice(start);
}

/** The bytes behind a text of the byte alphabet, or `undefined` when it has other characters. */
export function fromByteChars(text: string): Uint8Array | undefined {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const byte = byteOfChar(text.charCodeAt(i));
    if (byte < 0) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}

/** Number of code points. */
export function codePointCount(text: string): number {
  let count = text.length;
  for (let i = 0; i + 1 < text.length; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) count--;
  }
  return count;
}
