/** Text from bytes. */
import { FormatError } from '../errors.ts';
import type { ByteSource } from './source.ts';

/** UTF-8 to text; malformed bytes become U+FFFD, a leading byte order mark stays. */
export function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(decodable(bytes));
}

/** UTF-8 to text; malformed bytes throw `FormatError`. */
export function decodeUtf8Strict(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(decodable(bytes));
  } catch (error) {
    throw new FormatError(`${name}: expected UTF-8 text, got other bytes`, { cause: error });
  }
}

/** The text of a whole source of at most `maxBytes`; a byte order mark is dropped. */
export async function readTextFrom(source: ByteSource, maxBytes: number): Promise<string> {
  if (source.size > maxBytes) {
    throw new FormatError(`${source.name}: expected at most ${maxBytes} bytes of text, got ${source.size}`);
  }
  const text = decodeUtf8(await source.slice(0, source.size));
  return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
}

/** Decoders refuse shared memory. */
function decodable(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
}
