import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/core/engine/engine.ts';
import type { ModelRunner } from '../../src/core/engine/types.ts';

/** Answers at once with the same logits: what is left is the engine's own work. */
function instantModel(vocabSize: number): ModelRunner {
  const logits = new Float32Array(32 * vocabSize).map((_, i) => Math.sin(i));
  return {
    vocabSize,
    contextLength: 4096,
    blockSize: 32,
    blocks: 1024,
    maxRows: 512,
    maxSequences: 32,
    maxLogitRows: 32,
    forward: (batch) => Promise.resolve(logits.subarray(0, batch.logitCount * vocabSize)),
  };
}

describe('the engine itself', () => {
  it('takes at most 2 % of a step of 6 ms at 8 sequences', async () => {
    const engine = new Engine(instantModel(64));
    const prompt = Array.from({ length: 500 }, (_, i) => i % 64);
    const run = async (count: number) => {
      const before = { ...engine.stats() };
      const cpu = process.cpuUsage();
      await Promise.all(
        Array.from({ length: 8 }, (_, i) =>
          engine.generate({ prompt: [i, ...prompt], sampling: { topK: 1, maxLen: count } }),
        ),
      );
      const { user, system } = process.cpuUsage(cpu);
      return (user + system) / (engine.stats().steps - before.steps);
    };
    await run(1500);
    // The best of three: other processes share the machine.
    const microseconds = Math.min(await run(1500), await run(1500), await run(1500));
    expect(microseconds).toBeLessThan(6000 * 0.02);
  });
});
