/** Adapters beside the base weights give what merged weights give: alone, and mixed in one step. */
import { describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { adapterPath, devicesHere, distance, expectedOf, modelPath, rawLogits } from './harness.ts';

const ADAPTERS: Readonly<Record<string, readonly string[]>> = {
  llama: ['plain', 'patterns', 'some'],
  gguf_llama_f16: ['plain'],
  mixtral: ['fused', 'each'],
  gpt_oss: ['fused'],
  gpt2: ['plain'],
};
const TOLERANCE = 1e-4;

describe.each(await devicesHere('adapters'))('%s', { timeout: 120_000 }, (device) => {
  it.each(Object.entries(ADAPTERS))('%s with adapters equals merged weights', async (name, adapters) => {
    const expected = await expectedOf(name);
    await using model = await api.loadModel(modelPath(name), { device, dtype: 'f32', lora: true });
    expect(distance(await rawLogits(model, expected.ids), await expected.logits('none'))).toBeLessThan(TOLERANCE);
    for (const alias of adapters) await model.loadLoraAdapter(alias, adapterPath(name, alias));
    for (const alias of adapters) {
      const merged = await expected.logits(alias);
      expect(distance(merged, await expected.logits('none'))).toBeGreaterThan(100 * TOLERANCE);
      expect(distance(await rawLogits(model, expected.ids, alias), merged)).toBeLessThan(TOLERANCE);
    }
    expect(distance(await rawLogits(model, expected.ids), await expected.logits('none'))).toBeLessThan(TOLERANCE);
  });

  it.each(['llama', 'mixtral'])(
    '%s: requests of several adapters and none in one step are as each alone',
    async (name) => {
      const { ids } = await expectedOf(name);
      const settings = { device, dtype: 'f32', pagedAttn: { blockSize: device === 'reference' ? 8 : 32 } } as const;
      await using model = await api.loadModel(modelPath(name), {
        ...settings,
        loraAdapters: ADAPTERS[name]!.map((alias) => ({ alias, source: adapterPath(name, alias) })),
      });
      const ask = async (adapter: string | undefined, length: number) => {
        const response = await model.complete([...ids.subarray(0, length)], {
          sampling: { temperature: 0, maxLen: 8, ignoreEos: true },
          logprobs: true,
          ...(adapter === undefined ? {} : { adapter }),
        });
        expect(response.adapterGeneration !== undefined).toBe(adapter !== undefined);
        return response.choices[0]!;
      };
      const cases = [...ADAPTERS[name]!, undefined, ...ADAPTERS[name]!].map((a, i) => [a, 5 + i] as const);
      const together = await Promise.all(cases.map(([a, n]) => ask(a, n)));
      const alone: Awaited<ReturnType<typeof ask>>[] = [];
      for (const [a, n] of cases) alone.push(await ask(a, n));
      for (const [i, choice] of together.entries()) {
        expect([...choice.tokenIds]).toEqual([...alone[i]!.tokenIds]);
        const of = (c: typeof choice) => Float32Array.from(c.logprobs!.content.map((e) => e.logprob));
        expect(distance(of(choice), of(alone[i]!))).toBeLessThan(TOLERANCE);
      }
    },
  );
});
