/** The character map compiled into SentencePiece models: a double-array trie of byte sequences and their replacements. */

import { malformed } from './fields.ts';
import type { Normalizer } from './normalize.ts';
import { decodeUtf8, encodeUtf8 } from './utf8.ts';

/** Published maps have about 300 KB. */
const MAX_CHARSMAP_BYTES = 1 << 24;
/** Only grapheme clusters below this size are looked up as one. */
const MAX_CLUSTER_BYTES = 6;

/** A normalizer from the map in base 64, as it stands in tokenizer files. An empty map changes nothing. */
export function charsmapOf(base64: string, path: string): Normalizer {
  if (base64 === '') return () => {};
  let binary: string;
  try {
    binary = atob(base64);
  } catch {
    throw malformed(path, 'base 64', base64);
  }
  return clusterNormalizer(
    Charsmap.parse(
      Uint8Array.from(binary, (char) => char.charCodeAt(0)),
      path,
    ),
  );
}

/** The trie and the block of replacements it points into. */
export class Charsmap {
  readonly #units: Uint32Array;
  readonly #replacements: Uint8Array;

  private constructor(units: Uint32Array, replacements: Uint8Array) {
    this.#units = units;
    this.#replacements = replacements;
  }

  static parse(bytes: Uint8Array, path: string): Charsmap {
    if (bytes.length < 4 || bytes.length > MAX_CHARSMAP_BYTES) {
      throw malformed(path, `4 to ${MAX_CHARSMAP_BYTES} bytes`, bytes.length);
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const trieBytes = view.getUint32(0, true);
    if (trieBytes % 4 !== 0 || trieBytes > bytes.length - 4) {
      throw malformed(path, `a trie of at most ${bytes.length - 4} bytes, a multiple of 4`, trieBytes);
    }
    const units = Uint32Array.from({ length: trieBytes / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    return new Charsmap(units, bytes.slice(4 + trieBytes));
  }

  /** The longest prefix of `bytes[start, end)` in the map: its length (0 for none) and its replacement. */
  longest(bytes: Uint8Array, start: number, end: number): { readonly length: number; readonly text: string } {
    let length = 0;
    let value = 0;
    this.#walk(bytes, start, end, (depth, found) => {
      length = depth;
      value = found;
      return true;
    });
    return { length, text: length === 0 ? '' : this.#replacement(value) };
  }

  /** The replacement of the shortest prefix of a text in the map, or `undefined`. */
  replace(text: string): string | undefined {
    const bytes = encodeUtf8(text);
    let value = -1;
    this.#walk(bytes, 0, bytes.length, (_, found) => {
      value = found;
      return false;
    });
    return value < 0 ? undefined : this.#replacement(value);
  }

  /** Calls back for every prefix in the map, until that answers `false`. A link out of the array ends the walk. */
  #walk(bytes: Uint8Array, start: number, end: number, onFound: (depth: number, value: number) => boolean): void {
    const units = this.#units;
    let node = childBase(units[0] ?? 0);
    for (let i = start; i < end; i++) {
      const byte = bytes[i]!;
      if (byte === 0) return;
      node ^= byte;
      const unit = units[node];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return;
      node ^= childBase(unit);
      if ((unit & 0x100) === 0) continue;
      const leaf = units[node];
      if (leaf === undefined || !onFound(i + 1 - start, leaf & 0x7fffffff)) return;
    }
  }

  #replacement(at: number): string {
    const end = this.#replacements.indexOf(0, at);
    return decodeUtf8(this.#replacements.subarray(at, end < 0 ? this.#replacements.length : end));
  }
}

function childBase(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}

/** Replaces short grapheme clusters as a whole where the map has them, else character by character. */
function clusterNormalizer(map: Charsmap): Normalizer {
  const replacements = new Replacements(map);
  return (draft) => {
    const { text, head } = draft;
    if (head > 0) draft.head = headAfter(replacements, text.slice(0, head + HEAD_CONTEXT), head);
    let result = '';
    for (const part of stretches(text)) {
      if (isAscii(part)) result += replacements.ofAscii(part);
      else for (const cluster of clusters(part)) result += replacements.ofCluster(cluster).join('');
    }
    draft.text = result;
  };
}

/** No cluster that is replaced as a whole is longer. */
const HEAD_CONTEXT = 8;
/** Text has few distinct characters; a text made of very many does not fill the memory with them. */
const MAX_REMEMBERED = 1 << 14;

/** What the map makes of clusters, remembered. */
class Replacements {
  readonly #map: Charsmap;
  readonly #known = new Map<string, readonly string[]>();

  constructor(map: Charsmap) {
    this.#map = map;
  }

  /** The replacement of a cluster: one text for the whole of it, or one per character. */
  ofCluster(cluster: string): readonly string[] {
    let result = this.#known.get(cluster);
    if (result === undefined) {
      const whole = encodeUtf8(cluster).length < MAX_CLUSTER_BYTES ? this.#map.replace(cluster) : undefined;
      result = whole === undefined ? Array.from(cluster, (char) => this.#map.replace(char) ?? char) : [whole];
      if (this.#known.size >= MAX_REMEMBERED) this.#known.clear();
      this.#known.set(cluster, result);
    }
    return result;
  }

  /** ASCII, where every character is a cluster but for the line break of two. */
  ofAscii(text: string): string {
    let result = '';
    let start = 0;
    for (let i = 0; i < text.length; ) {
      const next = text.startsWith('\r\n', i) ? i + 2 : i + 1;
      const cluster = text.slice(i, next);
      const replaced = this.ofCluster(cluster).join('');
      if (replaced !== cluster) {
        result += text.slice(start, i) + replaced;
        start = next;
      }
      i = next;
    }
    return start === 0 ? text : result + text.slice(start);
  }
}

/**
 * The length of the head after replacement. Surplus new characters belong to the last old one, surplus old characters
 * go with the last new one; what is deleted at the very beginning leaves its place to what follows.
 */
function headAfter(replacements: Replacements, text: string, head: number): number {
  let consumed = 0;
  let length = 0;
  let newHead = 0;
  for (const part of stretches(text)) {
    for (const cluster of isAscii(part) ? (part.match(/\r\n|[\s\S]/g) ?? []) : clusters(part)) {
      const texts = replacements.ofCluster(cluster);
      const olds = [...cluster];
      texts.forEach((replaced, k) => {
        const old = texts.length === 1 ? olds : olds.slice(k, k + 1);
        [...replaced].forEach((char, i) => {
          const from = consumed + old.slice(0, Math.min(i, old.length - 1)).join('').length;
          length += char.length;
          if (from < head) newHead = length;
        });
        if (length > 0) consumed += old.join('').length;
      });
      if (consumed >= head) return newHead;
    }
  }
  return newHead;
}

function isAscii(text: string): boolean {
  return text.charCodeAt(text.length - 1) < 0x80;
}

/** Stretches of ASCII, and of other text with the one ASCII character before it that it may attach to. */
function* stretches(text: string): Iterable<string> {
  let start = 0;
  for (let i = 0; i < text.length; ) {
    while (i < text.length && text.charCodeAt(i) < 0x80) i++;
    const attach = i < text.length && i > start && text.charCodeAt(i - 1) !== 10 ? i - 1 : i;
    if (attach > start) yield text.slice(start, attach);
    start = attach;
    while (i < text.length && text.charCodeAt(i) >= 0x80) i++;
    if (i > start) yield text.slice(start, i);
    start = i;
  }
}

/** A segmenter takes time in the square of its text, so it gets pieces, and starts again at the last boundary found. */
const SEGMENTED_AT_ONCE = 256;

/** Grapheme clusters. */
function* clusters(text: string): Iterable<string> {
  const segmenter = new Intl.Segmenter('und', { granularity: 'grapheme' });
  let size = SEGMENTED_AT_ONCE;
  for (let start = 0; start < text.length; ) {
    const piece = text.slice(start, start + size);
    const segments = [...segmenter.segment(piece)];
    const last = start + piece.length === text.length ? undefined : segments.pop();
    if (last !== undefined && segments.length === 0) {
      size *= 2;
      continue;
    }
    for (const { segment } of segments) yield segment;
    start = last === undefined ? text.length : start + last.index;
    size = SEGMENTED_AT_ONCE;
  }
}
