import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockPool } from '../../src/core/engine/blocks.ts';

const BLOCK = 4;

/** A holder of blocks, with the tokens that are computed in them. */
interface Holder {
  tokens: number[];
  blocks: number[];
}

/**
 * Drives a pool as sequences do, beside a memory in which every slot holds all tokens up to its own: what a key or value
 * depends on.
 */
class World {
  readonly pool: BlockPool;
  readonly memory: string[];
  readonly holders: Holder[] = [];

  constructor(total: number) {
    this.pool = new BlockPool(total, BLOCK);
    this.memory = new Array(total * BLOCK).fill('');
  }

  /** Computes one more token; a shared block is copied first. */
  grow(h: Holder, token: number): void {
    const at = h.tokens.length;
    const last = h.blocks.at(-1);
    if (at % BLOCK === 0) {
      const block = this.pool.allocate();
      if (block < 0) return;
      h.blocks.push(block);
    } else if (this.pool.references(last!) > 1) {
      const own = this.pool.allocate();
      if (own < 0) return;
      for (let i = 0; i < BLOCK; i++) this.memory[own * BLOCK + i] = this.memory[last! * BLOCK + i]!;
      this.pool.release(last!);
      h.blocks[h.blocks.length - 1] = own;
    }
    h.tokens.push(token);
    this.memory[h.blocks.at(-1)! * BLOCK + (at % BLOCK)] = h.tokens.join();
    if (h.tokens.length % BLOCK === 0) {
      const i = h.blocks.length - 1;
      const tokens = Int32Array.from(h.tokens);
      h.blocks[i] = this.pool.publish(h.blocks[i]!, i === 0 ? -1 : h.blocks[i - 1]!, tokens, i * BLOCK);
    }
  }

  start(tokens: number[]): void {
    const h: Holder = { tokens: [], blocks: [] };
    this.holders.push(h);
    const all = Int32Array.from(tokens);
    while (h.tokens.length + BLOCK <= tokens.length) {
      const block = this.pool.reuse(h.blocks.at(-1) ?? -1, all, h.tokens.length);
      if (block < 0) break;
      h.tokens.push(...tokens.slice(h.tokens.length, h.tokens.length + BLOCK));
      h.blocks.push(block);
    }
    while (h.tokens.length < tokens.length && h.blocks.length * BLOCK >= h.tokens.length) {
      const before = h.tokens.length;
      this.grow(h, tokens[before]!);
      if (h.tokens.length === before) break;
    }
  }

  fork(h: Holder): void {
    for (const block of h.blocks) this.pool.retain(block);
    this.holders.push({ tokens: [...h.tokens], blocks: [...h.blocks] });
  }

  end(h: Holder): void {
    for (const block of h.blocks.reverse()) this.pool.release(block);
    this.holders.splice(this.holders.indexOf(h), 1);
  }

  check(): void {
    const { pool } = this;
    expect(pool.free + pool.used).toBe(pool.total);
    const held = new Map<number, number>();
    for (const h of this.holders) for (const b of h.blocks) held.set(b, (held.get(b) ?? 0) + 1);
    expect(pool.used).toBe(held.size);
    for (const [block, count] of held) expect(pool.references(block)).toBe(count);
    // A hit equals a recomputation: every holder sees exactly its own tokens.
    for (const h of this.holders) {
      for (let i = 0; i < h.tokens.length; i++) {
        const slot = h.blocks[Math.floor(i / BLOCK)]! * BLOCK + (i % BLOCK);
        expect(this.memory[slot]).toBe(h.tokens.slice(0, i + 1).join());
      }
    }
  }
}

const action = fc.oneof(
  fc.record({ kind: fc.constant('start' as const), tokens: fc.array(fc.nat(1), { maxLength: 18 }) }),
  fc.record({ kind: fc.constant('grow' as const), which: fc.nat(9), token: fc.nat(1) }),
  fc.record({ kind: fc.constant('fork' as const), which: fc.nat(9) }),
  fc.record({ kind: fc.constant('end' as const), which: fc.nat(9) }),
);

describe('BlockPool', () => {
  it('neither leaks nor mixes up blocks, over random lives of sequences', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 24 }), fc.array(action, { maxLength: 120 }), (total, actions) => {
        const world = new World(total);
        for (const a of actions) {
          if (a.kind === 'start') world.start(a.tokens);
          else if (world.holders.length > 0) {
            const h = world.holders[a.which % world.holders.length]!;
            if (a.kind === 'grow') world.grow(h, a.token);
            else if (a.kind === 'fork') world.fork(h);
            else world.end(h);
          }
          world.check();
        }
        for (const h of [...world.holders]) world.end(h);
        expect(world.pool.free).toBe(total);
        // Every block can be had again.
        const all = new Set(Array.from({ length: total }, () => world.pool.allocate()));
        expect(all.size).toBe(total);
        expect(world.pool.allocate()).toBe(-1);
      }),
      { numRuns: 300 },
    );
  });

  it('finds what was computed before, until it is the longest unused', () => {
    const world = new World(6);
    world.start([1, 1, 1, 1, 2, 2, 2, 2]);
    world.end(world.holders[0]!);
    expect(world.pool.free).toBe(6);
    world.start([1, 1, 1, 1, 2, 2, 2, 2, 3]);
    expect(world.pool.hits).toBe(2);
    world.end(world.holders[0]!);
    // Four blocks are unknown; the fifth takes the place of the later of the two known ones.
    for (let i = 0; i < 5; i++) world.pool.allocate();
    expect(world.pool.evictions).toBe(1);
    const tokens = Int32Array.of(1, 1, 1, 1, 2, 2, 2, 2);
    const first = world.pool.find(-1, tokens, 0);
    expect(first).toBeGreaterThanOrEqual(0);
    expect(world.pool.find(first, tokens, 4)).toBe(-1);
  });

  it('tells equal tokens after different ones apart', () => {
    const world = new World(8);
    world.start([1, 1, 1, 1, 5, 5, 5, 5]);
    const tokens = Int32Array.of(2, 2, 2, 2, 5, 5, 5, 5);
    expect(world.pool.find(-1, tokens, 0)).toBe(-1);
    expect(world.pool.find(-1, tokens, 4)).toBe(-1);
  });

  it('finds every known block and no other while old ones go', () => {
    const pool = new BlockPool(512, BLOCK);
    const runs = Array.from({ length: 800 }, (_, i) => Int32Array.of(i, i * 7, 1, 2));
    for (const [i, run] of runs.entries()) {
      pool.release(pool.publish(pool.allocate(), -1, run, 0));
      if (i % 100 !== 99) continue;
      const found = runs.map((other) => pool.find(-1, other, 0) >= 0);
      expect(found).toEqual(runs.map((_, j) => j <= i && j > i - 512));
    }
  });

  it('tells tokens with equal hashes apart', () => {
    // FNV-1a steps: the second word undoes the difference that the first one made.
    const step = (token: number) => Math.imul(0x811c9dc5 ^ token, 0x01000193);
    const a = Int32Array.of(1, 7, 8, 9);
    const b = Int32Array.of(2, 7 ^ step(1) ^ step(2), 8, 9);
    const pool = new BlockPool(4, BLOCK);
    pool.publish(pool.allocate(), -1, a, 0);
    expect(pool.find(-1, a, 0)).toBeGreaterThanOrEqual(0);
    expect(pool.find(-1, b, 0)).toBe(-1);
  });

  it('gives one block to sequences that computed the same side by side', () => {
    const pool = new BlockPool(4, BLOCK);
    const tokens = Int32Array.of(1, 2, 3, 4);
    const a = pool.allocate();
    const b = pool.allocate();
    expect(pool.publish(a, -1, tokens, 0)).toBe(a);
    expect(pool.publish(b, -1, tokens, 0)).toBe(a);
    expect(pool.references(a)).toBe(2);
    expect(pool.used).toBe(1);
  });

  it('forgets everything on demand, without touching holders', () => {
    const pool = new BlockPool(4, BLOCK);
    const tokens = Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const a = pool.publish(pool.allocate(), -1, tokens, 0);
    pool.forgetAll();
    expect(pool.find(-1, tokens, 0)).toBe(-1);
    const b = pool.allocate();
    expect(pool.publish(b, a, tokens, 4)).toBe(b);
    expect(pool.find(a, tokens, 4)).toBe(-1);
    expect(pool.find(-1, tokens, 4)).toBe(-1);
    pool.release(b);
    pool.release(a);
    expect(pool.free).toBe(4);
  });
});
