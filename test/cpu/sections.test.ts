import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { arrange } from '../../src/backends/sections.ts';
import type { RawSection } from '../../src/core/backend.ts';
import { type StorageTypeName, storageType } from '../../src/core/dtype.ts';

const COLUMNS = 4;

/** Rows of bytes that tell their number in the whole matrix. */
function sections(parts: readonly (readonly [StorageTypeName, number])[]): RawSection[] {
  let before = 0;
  return parts.map(([name, rows]) => {
    const start = before;
    before += rows;
    return {
      type: storageType(name),
      rows,
      async readRows(first, count, target) {
        expect(first + count).toBeLessThanOrEqual(rows);
        expect(target.length).toBe(count * COLUMNS);
        for (let r = 0; r < count; r++) target.fill(start + first + r, r * COLUMNS, (r + 1) * COLUMNS);
      },
    };
  });
}

const part = fc.tuple(fc.constantFrom<StorageTypeName>('U8', 'I8'), fc.integer({ min: 0, max: 40 }));

describe('arrange', () => {
  it('keeps every row in place, joins what may be joined, and cuts what is long', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(part, { maxLength: 6 }), fc.integer({ min: 1, max: 6 }), async (parts, groups) => {
        const most = groups * 8;
        const arranged = arrange(sections(parts), COLUMNS, most, 8);
        let row = 0;
        for (const section of arranged) {
          expect(section.rows).toBeGreaterThan(0);
          expect(section.rows).toBeLessThanOrEqual(most);
          const half = section.rows >> 1;
          for (const [first, count] of [
            [0, section.rows],
            [half, section.rows - half],
          ] as const) {
            const bytes = new Uint8Array(count * COLUMNS);
            await section.readRows(first, count, bytes);
            expect([...bytes]).toEqual(Array.from(bytes, (_, i) => (row + first + Math.floor(i / COLUMNS)) & 255));
          }
          row += section.rows;
        }
        expect(row).toBe(parts.reduce((n, [, rows]) => n + rows, 0));
      }),
    );
  });

  it('joins neighbours of one type only on whole groups', () => {
    const rows = (parts: Parameters<typeof sections>[0]) =>
      arrange(sections(parts), COLUMNS, 1e6, 8).map((s) => s.rows);
    expect(
      rows([
        ['U8', 16],
        ['U8', 5],
        ['U8', 8],
        ['I8', 8],
        ['I8', 8],
      ]),
    ).toEqual([21, 8, 16]);
  });
});
