/**
 * The blocks of the paged key/value cache: who holds them, and which full ones can be used again. No tensor here.
 *
 * A full block is known by its tokens and by the known block before it, so equal means equal from the first token on:
 * the hash only finds candidates. A sequence that holds a known block holds all blocks before it, and gives them back
 * last first; so a block is always dropped before the one it follows.
 */

const NO_BLOCK = -1;
/** Parent of a sequence's first block; with a salt, one number further down from `UNKNOWN` each. */
const ROOT = 0;
/** Identity of a block with contents nobody else may rely on. */
const UNKNOWN = -1;

export class BlockPool {
  readonly blockSize: number;
  readonly total: number;

  readonly #references: Int32Array;
  /** Free blocks from the next one to be taken to the last one; entry `total` is the end of both directions. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #free: number;

  /** Identity of a known block; never given twice. */
  readonly #serial: Float64Array;
  readonly #parent: Float64Array;
  readonly #tokens: Int32Array;
  readonly #hash: Int32Array;
  /** Chains of known blocks with equal low bits of the hash. */
  readonly #buckets: Int32Array;
  readonly #chain: Int32Array;
  #lastSerial = ROOT;

  /** Called with every known block that becomes unknown, but not by `forgetAll`. */
  onForget: ((block: number) => void) | undefined;

  lookups = 0;
  hits = 0;
  evictions = 0;

  constructor(total: number, blockSize: number) {
    this.total = total;
    this.blockSize = blockSize;
    this.#references = new Int32Array(total);
    this.#next = new Int32Array(total + 1);
    this.#previous = new Int32Array(total + 1);
    for (let i = 0; i <= total; i++) {
      this.#next[i] = (i + 1) % (total + 1);
      this.#previous[i] = (i + total) % (total + 1);
    }
    // The end comes before block 0: the list starts there.
    this.#free = total;
    this.#serial = new Float64Array(total).fill(UNKNOWN);
    this.#parent = new Float64Array(total);
    this.#tokens = new Int32Array(total * blockSize);
    this.#hash = new Int32Array(total);
    this.#buckets = new Int32Array(2 ** Math.ceil(Math.log2(Math.max(total, 1) * 2))).fill(NO_BLOCK);
    this.#chain = new Int32Array(total);
  }

  /** Blocks nobody holds, known ones included. */
  get free(): number {
    return this.#free;
  }

  get used(): number {
    return this.total - this.#free;
  }

  /** Holders of a block. */
  references(block: number): number {
    return this.#references[block]!;
  }

  /** A block for one holder, or -1 when none is free. Unknown blocks go first, then the known ones longest unused. */
  allocate(): number {
    if (this.#free === 0) return NO_BLOCK;
    const block = this.#next[this.total]!;
    if (this.#serial[block] !== UNKNOWN) {
      this.#forget(block);
      this.evictions++;
    }
    this.#unlink(block);
    this.#references[block] = 1;
    return block;
  }

  /** One more holder. */
  retain(block: number): void {
    if (this.#references[block] === 0) this.#unlink(block);
    this.#references[block]!++;
  }

  /** One holder less. Give a sequence's blocks back from the last to the first. */
  release(block: number): void {
    if (--this.#references[block]! > 0) return;
    // Known blocks wait at the end, in case they are wanted again.
    const before = this.#serial[block] === UNKNOWN ? this.total : this.#previous[this.total]!;
    this.#link(block, before);
  }

  /**
   * The known block that follows `parent` (-1 for the start) with `blockSize` tokens from `tokens[at]`, or -1. It is not
   * retained. Sequences of unequal salt know nothing of each other.
   */
  find(parent: number, tokens: Int32Array, at: number, salt = 0): number {
    const parentSerial = this.#serialOf(parent, salt);
    return this.#find(parentSerial, tokens, at, hashOf(parentSerial, tokens, at, this.blockSize));
  }

  /** `find`, counted, for one more holder. */
  reuse(parent: number, tokens: Int32Array, at: number, salt = 0): number {
    const block = this.find(parent, tokens, at, salt);
    this.lookups++;
    if (block === NO_BLOCK) return NO_BLOCK;
    this.hits++;
    this.retain(block);
    return block;
  }

  /**
   * Makes a held, full block known. If an equal one is known already, the holder gets that one and gives `block` back.
   * Returns the block the holder has now. After an unknown `parent` a block stays unknown.
   */
  publish(block: number, parent: number, tokens: Int32Array, at: number, salt = 0): number {
    const parentSerial = this.#serialOf(parent, salt);
    if (parentSerial === UNKNOWN) return block;
    const hash = hashOf(parentSerial, tokens, at, this.blockSize);
    const known = this.#find(parentSerial, tokens, at, hash);
    if (known !== NO_BLOCK) {
      this.retain(known);
      this.release(block);
      return known;
    }
    this.#serial[block] = ++this.#lastSerial;
    this.#parent[block] = parentSerial;
    this.#hash[block] = hash;
    const base = block * this.blockSize;
    for (let i = 0; i < this.blockSize; i++) this.#tokens[base + i] = tokens[at + i]!;
    const bucket = hash & (this.#buckets.length - 1);
    this.#chain[block] = this.#buckets[bucket]!;
    this.#buckets[bucket] = block;
    return block;
  }

  /** Forgets every known block; holders keep theirs. */
  forgetAll(): void {
    this.#serial.fill(UNKNOWN);
    this.#buckets.fill(NO_BLOCK);
  }

  #serialOf(parent: number, salt: number): number {
    if (parent !== NO_BLOCK) return this.#serial[parent]!;
    return salt === 0 ? ROOT : UNKNOWN - salt;
  }

  #find(parentSerial: number, tokens: Int32Array, at: number, hash: number): number {
    let block = this.#buckets[hash & (this.#buckets.length - 1)]!;
    while (block !== NO_BLOCK) {
      if (this.#hash[block] === hash && this.#parent[block] === parentSerial && this.#holds(block, tokens, at)) break;
      block = this.#chain[block]!;
    }
    return block;
  }

  #holds(block: number, tokens: Int32Array, at: number): boolean {
    const base = block * this.blockSize;
    for (let i = 0; i < this.blockSize; i++) if (this.#tokens[base + i] !== tokens[at + i]) return false;
    return true;
  }

  #forget(block: number): void {
    const bucket = this.#hash[block]! & (this.#buckets.length - 1);
    if (this.#buckets[bucket] === block) {
      this.#buckets[bucket] = this.#chain[block]!;
    } else {
      let at = this.#buckets[bucket]!;
      while (this.#chain[at] !== block) at = this.#chain[at]!;
      this.#chain[at] = this.#chain[block]!;
    }
    this.#serial[block] = UNKNOWN;
    this.onForget?.(block);
  }

  #link(block: number, before: number): void {
    const after = this.#next[before]!;
    this.#next[before] = block;
    this.#previous[block] = before;
    this.#next[block] = after;
    this.#previous[after] = block;
    this.#free++;
  }

  #unlink(block: number): void {
    const before = this.#previous[block]!;
    const after = this.#next[block]!;
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#free--;
  }
}

/** FNV-1a over 32-bit words, with a final mix. Equality is checked on the tokens, so speed is all that counts here. */
function hashOf(parent: number, tokens: Int32Array, at: number, count: number): number {
  let hash = 0x811c9dc5 ^ (parent | 0);
  for (let i = 0; i < count; i++) hash = Math.imul(hash ^ tokens[at + i]!, 0x01000193);
  hash ^= hash >>> 15;
  return Math.imul(hash, 0x2c1b3c6d) ^ (hash >>> 13);
}
