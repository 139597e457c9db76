/** SHA-1 and SHA-256 that run along with a stream; the digests of web-standard globals want all bytes at once. */
import type { Hasher } from '../core/platform.ts';

const BLOCK_BYTES = 64;
/** Where the length of the message begins in the last block. */
const LENGTH_AT = 56;

/** First 32 bits of the fractional parts of the roots of the first primes (FIPS 180-4, 4.2.2 and 5.3.3). */
function primeRoots(count: number, root: (n: number) => number): Int32Array {
  const words = new Int32Array(count);
  for (let n = 2, found = 0; found < count; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (prime) words[found++] = (root(n) % 1) * 2 ** 32;
  }
  return words;
}

/** Mixes one block (words 0 to 15 of `schedule`) into `state`. */
type Compress = (state: Int32Array, schedule: Int32Array) => void;

/** A running digest. About 200 MB/s, so pieces of a download pass within a millisecond. */
export function shaHasher(algorithm: 'sha1' | 'sha256'): Hasher {
  return algorithm === 'sha1'
    ? new ShaHasher(Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0), 80, sha1)
    : new ShaHasher(primeRoots(8, Math.sqrt), 64, sha256(primeRoots(64, Math.cbrt)));
}

class ShaHasher implements Hasher {
  readonly #state: Int32Array;
  readonly #schedule: Int32Array;
  readonly #compress: Compress;
  /** The block that is not full yet. */
  readonly #rest = new Uint8Array(BLOCK_BYTES);
  #bytes = 0;

  constructor(state: Int32Array, rounds: number, compress: Compress) {
    this.#state = state;
    this.#schedule = new Int32Array(rounds);
    this.#compress = compress;
  }

  update(bytes: Uint8Array): void {
    const held = this.#bytes % BLOCK_BYTES;
    this.#bytes += bytes.length;
    let at = 0;
    if (held > 0) {
      at = Math.min(BLOCK_BYTES - held, bytes.length);
      this.#rest.set(bytes.subarray(0, at), held);
      if (held + at < BLOCK_BYTES) return;
      this.#block(this.#rest, 0);
    }
    for (; at + BLOCK_BYTES <= bytes.length; at += BLOCK_BYTES) this.#block(bytes, at);
    this.#rest.set(bytes.subarray(at));
  }

  digest(): string {
    const bytes = this.#bytes;
    const held = bytes % BLOCK_BYTES;
    const end = new Uint8Array(held < LENGTH_AT ? BLOCK_BYTES : 2 * BLOCK_BYTES);
    end.set(this.#rest.subarray(0, held));
    end[held] = 0x80;
    const length = new DataView(end.buffer, end.length - 8);
    length.setUint32(0, Math.floor(bytes / 2 ** 29));
    length.setUint32(4, bytes * 8);
    for (let at = 0; at < end.length; at += BLOCK_BYTES) this.#block(end, at);
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }

  #block(bytes: Uint8Array, at: number): void {
    const w = this.#schedule;
    for (let i = 0; i < 16; i++, at += 4) {
      w[i] = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
    }
    this.#compress(this.#state, w);
  }
}

function sha1(state: Int32Array, w: Int32Array): void {
  for (let i = 16; i < 80; i++) {
    const x = w[i - 3]! ^ w[i - 8]! ^ w[i - 14]! ^ w[i - 16]!;
    w[i] = (x << 1) | (x >>> 31);
  }
  let [a, b, c, d, e] = state as unknown as [number, number, number, number, number];
  for (let i = 0; i < 80; i++) {
    let mix: number;
    if (i < 20) mix = ((b & c) | (~b & d)) + 0x5a827999;
    else if (i < 40) mix = (b ^ c ^ d) + 0x6ed9eba1;
    else if (i < 60) mix = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
    else mix = (b ^ c ^ d) + 0xca62c1d6;
    const next = (((a << 5) | (a >>> 27)) + mix + e + w[i]!) | 0;
    e = d;
    d = c;
    c = (b << 30) | (b >>> 2);
    b = a;
    a = next;
  }
  state[0]! += a;
  state[1]! += b;
  state[2]! += c;
  state[3]! += d;
  state[4]! += e;
}

function sha256(k: Int32Array): Compress {
  return (state, w) => {
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15]!;
      const y = w[i - 2]!;
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = w[i - 16]! + s0 + w[i - 7]! + s1;
    }
    let a = state[0]!;
    let b = state[1]!;
    let c = state[2]!;
    let d = state[3]!;
    let e = state[4]!;
    let f = state[5]!;
    let g = state[6]!;
    let h = state[7]!;
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + k[i]! + w[i]!) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    state[0]! += a;
    state[1]! += b;
    state[2]! += c;
    state[3]! += d;
    state[4]! += e;
    state[5]! += f;
    state[6]! += g;
    state[7]! += h;
  };
}
