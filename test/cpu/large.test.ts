import { freemem } from 'node:os';
import { describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import { storageType } from '../../src/core/dtype.ts';
import { Weight } from '../../src/core/weight.ts';

const GIB = 2 ** 30;
const ROWS = 65_536;
const COLUMNS = 8192;
/** Each matrix takes 1 GiB in bfloat16. */
const MATRICES = 5;
const NEEDED = 12 * GIB;

const enough = freemem() > NEEDED;
const title = enough
  ? 'work on from several memories'
  : `work on from several memories (skipped: ${(freemem() / GIB).toFixed(1)} GiB free, ${NEEDED / GIB} needed)`;

describe('weights of more than 4 GiB', () => {
  it.skipIf(!enough)(title, { timeout: 300_000 }, async () => {
    const backend = await createCpuBackend({ threads: 2 });
    const weights: Weight[] = [];
    for (let m = 0; m < MATRICES; m++) {
      const data = await backend.loadWeight({
        name: `w${m}`,
        shape: [ROWS, COLUMNS],
        sections: [
          {
            type: storageType('BF16'),
            rows: ROWS,
            async readRows(first, rows, target) {
              // All ones, but for a diagonal of 2 + m.
              const values = new Uint16Array(target.buffer, target.byteOffset, rows * COLUMNS).fill(0x3f80);
              const special = bf16(2 + m);
              for (let r = 0; r < rows; r++) values[r * COLUMNS + ((first + r) % COLUMNS)] = special;
            },
          },
        ],
      });
      weights.push(new Weight(`w${m}`, [ROWS, COLUMNS], data));
    }
    expect(backend.memory().persistent).toBeGreaterThanOrEqual(MATRICES * GIB);
    const x = backend.upload(new Float32Array(COLUMNS).fill(1), [1, COLUMNS]);
    const out = backend.persistent([1, ROWS]);
    for (const [m, w] of weights.entries()) {
      backend.ops.linear(out, x, w, {});
      const y = (await backend.read(out)) as Float32Array;
      expect(y.every((v) => v === COLUMNS + 1 + m)).toBe(true);
      const rows = backend.persistent([2, COLUMNS]);
      backend.ops.gatherRows(rows, w, backend.upload(Int32Array.of(0, ROWS - 1), [2]));
      const values = await backend.read(rows);
      expect([values[0], values[1], values[2 * COLUMNS - 1], values[COLUMNS]]).toEqual([2 + m, 1, 2 + m, 1]);
    }
    for (const w of weights) w.dispose();
    await backend.flush();
    expect(backend.memory().persistent).toBeLessThan(GIB);
    await backend.dispose();
  });
});

function bf16(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16;
}
