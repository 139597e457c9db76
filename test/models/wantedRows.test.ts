/** Behind the last attention only the rows go on whose logits are wanted, also where the MLP stands beside attention. */
import { describe, expect, it } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { fixtures, furthest, LoadedModel, openModel, readPrompts } from './harness.ts';

const FAMILIES = ['llama', 'phi', 'cohere2', 'gptneox', 'gptneox_sequential', 'stablelm_qk_parallel'];

describe.each(FAMILIES)('%s', (name) => {
  it('feeds the wanted rows of the last layer only, and they stay the same', async () => {
    const backend = new ReferenceBackend();
    const folder = new URL(`${name}/`, fixtures);
    const [prompt] = await readPrompts(folder);
    const model = await LoadedModel.load(backend, 8, await openModel(folder));
    const { vocabSize, decoder } = model.runner;
    const last = decoder.caches.length - 1;
    const rows: number[] = [];
    const { linear } = backend.ops;
    backend.ops.linear = (out, x, w, options) => {
      if (new RegExp(`layers\\.${last}\\.mlp\\.`).test(w.name)) rows.push(x.rowCount);
      linear(out, x, w, options);
    };
    const count = prompt!.ids.length;
    const step = (wanted: readonly number[]) => model.step([{ track: model.track(prompt!.ids), count }], wanted);
    const wanted = [count - 1, 2];
    const logits = await step(wanted);
    expect(rows.length).toBeGreaterThan(1);
    expect(rows).toEqual(rows.map(() => wanted.length));
    for (const [i, row] of wanted.entries()) {
      const expected = prompt!.logits.subarray(row * vocabSize, (row + 1) * vocabSize);
      expect(furthest(logits.subarray(i * vocabSize, (i + 1) * vocabSize), expected)).toBeLessThan(2e-4);
    }
    rows.length = 0;
    expect(await step([])).toHaveLength(0);
    expect(rows).toEqual([]);
    model.dispose();
    await backend.dispose();
  });
});
