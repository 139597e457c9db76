import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HEAP_ALIGN, Heap } from '../../src/backends/cpu/heap.ts';

const START = 1000 * HEAP_ALIGN;
const LIMIT = START + 4000 * HEAP_ALIGN;

type Step = { readonly allocate: number } | { readonly free: number };
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ allocate: fc.integer({ min: 0, max: 300 * HEAP_ALIGN }) }),
  fc.record({ free: fc.nat(50) }),
);

describe('Heap', () => {
  it('never overlaps, never leaks, and gives everything back', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        let end = START;
        const heap = new Heap(START, START, (bytes) => {
          if (end + bytes > LIMIT) return undefined;
          end = Math.min(LIMIT, end + Math.max(bytes, 64 * HEAP_ALIGN));
          return end;
        });
        const used: { address: number; bytes: number }[] = [];
        for (const s of steps) {
          if ('free' in s) {
            const [range] = used.splice(s.free % Math.max(1, used.length), 1);
            if (range) heap.free(range.address);
          } else {
            const address = heap.allocate(s.allocate);
            const bytes = Math.ceil(Math.max(1, s.allocate) / HEAP_ALIGN) * HEAP_ALIGN;
            if (address !== undefined) {
              expect(address % HEAP_ALIGN).toBe(0);
              expect(address).toBeGreaterThanOrEqual(START);
              expect(address + bytes).toBeLessThanOrEqual(end);
              for (const u of used) expect(address + bytes <= u.address || u.address + u.bytes <= address).toBe(true);
              used.push({ address, bytes });
            }
          }
          expect(heap.usedBytes).toBe(used.reduce((n, u) => n + u.bytes, 0));
          expect(heap.ranges).toBe(used.length);
        }
        for (const u of used) heap.free(u.address);
        expect(heap.usedBytes).toBe(0);
        // All is one free range again: it can be had as a whole, up to the limit.
        expect(heap.allocate(LIMIT - START)).toBe(START);
      }),
      { numRuns: 300 },
    );
  });

  it('reuses the smallest range that fits before it grows', () => {
    let grown = 0;
    let end = 0;
    const heap = new Heap(0, 0, (bytes) => {
      grown++;
      end += bytes;
      return end;
    });
    const [a, b, c, d] = [4, 1, 2, 1].map((n) => heap.allocate(n * HEAP_ALIGN)!) as [number, number, number, number];
    heap.free(a);
    heap.free(c);
    const before = grown;
    expect(heap.allocate(2 * HEAP_ALIGN)).toBe(c);
    expect(heap.allocate(3 * HEAP_ALIGN)).toBe(a);
    expect(grown).toBe(before);
    expect([b, d]).not.toContain(heap.allocate(HEAP_ALIGN));
  });

  it('refuses to free what it did not hand out', () => {
    const heap = new Heap(0, 1024, () => undefined);
    const address = heap.allocate(10)!;
    heap.free(address);
    expect(() => heap.free(address)).toThrow(/expected an allocated address/);
    expect(heap.allocate(2000)).toBeUndefined();
  });
});
