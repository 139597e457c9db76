/** Damages files in the ways that find mistakes in parsers. Deterministic for a seed. */

/** Numbers in [0, 1); the same sequence for the same seed. */
export type Random = () => number;

export function random(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const below = (rnd: Random, n: number): number => Math.floor(rnd() * n);
const pick = <T>(rnd: Random, items: readonly T[]): T => items[below(rnd, items.length)]!;

const EXTREMES: readonly bigint[] = [
  ...[0n, 1n, 2n, 7n, 8n, 12n, 0x7fn, 0x80n, 0xffn, 0x100n, 0xffffn],
  ...[2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 60n],
  ...[2n ** 61n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 8n, 2n ** 64n - 32n],
];

/** A damaged copy of a binary file; most damage goes to its first `header` bytes. `other` lends pieces. */
export function mutate(rnd: Random, file: Uint8Array, header: number, other: Uint8Array): Uint8Array {
  let bytes: Uint8Array = file.slice();
  for (let rounds = 1 + below(rnd, 3); rounds > 0; rounds--) {
    const place = (): number => below(rnd, rnd() < 0.85 ? Math.min(header, bytes.length) : bytes.length);
    switch (below(rnd, 7)) {
      case 0:
        for (let n = 1 + below(rnd, 8); n > 0 && bytes.length > 0; n--) bytes[place()]! ^= 1 << below(rnd, 8);
        break;
      case 1:
        bytes = bytes.slice(0, place());
        break;
      case 2:
        put(bytes, place(), pick(rnd, EXTREMES), 8);
        break;
      case 3:
        put(bytes, place(), pick(rnd, EXTREMES), 4);
        break;
      case 4: {
        // A field that counts one too few or too many.
        const at = place();
        if (at < bytes.length) bytes[at] = bytes[at]! + (rnd() < 0.5 ? 1 : -1);
        break;
      }
      case 5: {
        const from = below(rnd, other.length);
        const piece = other.subarray(from, from + 1 + below(rnd, 64));
        const at = place();
        bytes = concat(
          bytes.subarray(0, at),
          piece,
          bytes.subarray(rnd() < 0.5 ? at : Math.min(bytes.length, at + piece.length)),
        );
        break;
      }
      default: {
        const at = place();
        bytes = concat(bytes.subarray(0, at), bytes.subarray(at + 1 + below(rnd, 24)));
      }
    }
  }
  return bytes;
}

const WORDS: readonly string[] = [
  ...['{', '}', '[', ']', ',', ':', '"', '\\', '\\u', '\\ud800', '-', '.', 'e', 'E+', '0', '1e999', '-1', '1.5'],
  ...[
    'null',
    'true',
    'NaN',
    '-Infinity',
    'Infinity',
    '{}',
    '[]',
    '""',
    '"a":',
    '\u0000',
    '\ufeff',
    '\u2028',
    '😀',
    '\n',
  ],
  ...[
    '9007199254740993',
    '1152921504606846976',
    '18446744073709551615',
    '"__proto__":',
    '"__metadata__":',
    '/../',
    '..',
  ],
  ...['[[[[[[[[', '{"a":'.repeat(300), '['.repeat(5000), '"data_offsets":[0,4]', '"F32"', '"I64"', ' '.repeat(100)],
];

/** A damaged copy of a JSON text. */
export function mutateText(rnd: Random, text: string): string {
  let out = text;
  for (let rounds = 1 + below(rnd, 3); rounds > 0; rounds--) {
    const at = below(rnd, out.length + 1);
    const length = below(rnd, 12);
    switch (below(rnd, 5)) {
      case 0:
        out = out.slice(0, at) + pick(rnd, WORDS) + out.slice(at);
        break;
      case 1:
        out = out.slice(0, at) + pick(rnd, WORDS) + out.slice(at + length);
        break;
      case 2:
        out = out.slice(0, at) + out.slice(at + 1 + length);
        break;
      case 3: {
        // A number becomes another one.
        const numbers = [...out.matchAll(/\d+/g)];
        if (numbers.length === 0) break;
        const match = pick(rnd, numbers);
        out = out.slice(0, match.index) + String(pick(rnd, EXTREMES)) + out.slice(match.index + match[0].length);
        break;
      }
      default:
        if (rnd() < 0.2) out = out.slice(0, at);
        else out = out.slice(0, at) + out.slice(below(rnd, out.length + 1), at + length) + out.slice(at);
    }
  }
  return out;
}

function put(bytes: Uint8Array, at: number, value: bigint, width: number): void {
  for (let i = 0; i < width && at + i < bytes.length; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
}

function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
