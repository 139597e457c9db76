import { statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../src/index.ts';
import { type Spec, writeModel } from './models.ts';

/** 30 MB of F32, of which the largest tensor has 2. */
const SIZES: Spec = { hidden: 512, inner: 1024, layers: 3, vocab: 1024, tied: true };
const LARGEST = 4 * 512 * 1024;

/** What buffers take beside the heap, without those that nobody holds any more. */
function held(): number {
  if (!globalThis.gc) throw new Error('expected node --expose-gc, as vitest.config.ts has it');
  globalThis.gc();
  return process.memoryUsage().arrayBuffers;
}

describe('memory while weights are quantized', () => {
  it('is that of the result and two tensors at most', async () => {
    const folder = writeModel(SIZES);
    const whole = statSync(join(folder, 'model.safetensors')).size;
    const before = held();
    let most = 0;
    const model = await loadModel(folder, {
      ...{ device: 'cpu', threads: 1, isq: 'Q8_0', maxModelLen: 64, pagedAttn: { memory: { contextSize: 64 } } },
      onProgress: () => {
        most = Math.max(most, held() - before);
      },
    });
    const { bytesBefore, bytesAfter } = model.quantReport();
    await model.dispose();
    expect(bytesBefore).toBeGreaterThan(0.99 * whole);
    // Twice as much would be too much for a model held whole, too.
    expect(bytesAfter + 2 * LARGEST).toBeLessThan(whole / 2);
    expect(most).toBeLessThan(bytesAfter + 2 * LARGEST);
  });
});
