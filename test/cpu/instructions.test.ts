import { describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import { chooseInstructions } from '../../src/backends/cpu/instructions.ts';

describe('chooseInstructions', () => {
  it('obeys the request', async () => {
    expect((await chooseInstructions('off', false)).level).toBe('off');
    expect(await chooseInstructions('simd', false)).toMatchObject({
      level: 'simd',
      variant: { fma: false, dot: 'simd' },
    });
    expect((await chooseInstructions('auto', true)).variant.fma).toBe(false);
  });

  it('finds relaxed SIMD here, and never the 32-bit dot product of Node 20, which computes wrongly', async () => {
    const choice = await chooseInstructions('auto', false);
    expect(choice.level).toBe('relaxed');
    if (process.versions.node.startsWith('20.')) {
      expect(choice).toMatchObject({ variant: { dot: 'i16' }, reason: expect.stringContaining('compute right') });
    }
  });

  it('is reported by the back-end', async () => {
    const backend = await createCpuBackend({ inline: true });
    expect(backend.info).toMatchObject({ name: 'cpu', threads: 1, simd: 'relaxed' });
    expect(backend.info.reason).toMatch(/dot products/);
    await backend.dispose();
  });
});
