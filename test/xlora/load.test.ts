/** What X-LoRA and legacy adapters refuse, that builders load the same, and that nothing stays behind. */
import { describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { distance, modelPath, rawLogits } from '../lora/harness.ts';
import { CASES, casePath, expectedOf, filesOf, orderingOf } from './harness.ts';

const TOLERANCE = 2e-4;
const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

function configOf(name: string): Record<string, unknown> {
  return JSON.parse(new TextDecoder().decode(filesOf(name)['xlora_config.json'])) as Record<string, unknown>;
}

function load(name: string, xlora: Partial<api.XLoraOptions>, options: api.LoadOptions = {}): Promise<api.Model> {
  const own = { modelId: casePath(name), ordering: orderingOf(name), ...xlora };
  return api.loadModel(modelPath(CASES[name]!), { device: 'reference', dtype: 'f32', xlora: own, ...options });
}

/** With some entries of the configuration changed. */
function changed(name: string, changes: object): Partial<api.XLoraOptions> {
  return { modelId: { ...filesOf(name), 'xlora_config.json': encode({ ...configOf(name), ...changes }) } };
}

describe('x-lora', () => {
  it('builders load what options load', async () => {
    const ids = await expectedOf('llama_plain', 'ids');
    const logits = await expectedOf('llama_plain', 'logits');
    const base = () => new api.TextModelBuilder(modelPath('llama')).withDevice('reference').withDtype('f32');
    const ordering = `${casePath('llama_plain')}/ordering.json`;
    await using fromPath = await new api.XLoraModelBuilder(base(), casePath('llama_plain'), ordering)
      .tgtNonGranularIndex(3)
      .build();
    expect(distance(await rawLogits(fromPath, ids), logits)).toBeLessThan(TOLERANCE);
    await using fromFiles = await new api.XLoraModelBuilder(base(), filesOf('llama_plain')).build();
    expect(distance(await rawLogits(fromFiles, ids), logits)).toBeLessThan(TOLERANCE);
    const gguf = new api.GgufModelBuilder(modelPath('gguf_phi3_f16').replace('/model.gguf', ''), ['model.gguf']);
    await using quantized = await new api.GgufXLoraModelBuilder(
      gguf.withDevice('reference').withDtype('f32'),
      casePath('gguf_phi3'),
      orderingOf('gguf_phi3'),
    ).build();
    const expected = await expectedOf('gguf_phi3', 'logits');
    expect(distance(await rawLogits(quantized, await expectedOf('gguf_phi3', 'ids')), expected)).toBeLessThan(
      TOLERANCE,
    );
  });

  it('adapters without a classifier add up', async () => {
    const gguf = new api.GgufModelBuilder(modelPath('gguf_phi3_f16').replace('/model.gguf', ''), ['model.gguf']);
    const builder = new api.GgufLoraModelBuilder(
      gguf.withDevice('reference').withDtype('f32'),
      casePath('gguf_phi3'),
      orderingOf('gguf_phi3'),
    );
    await using model = await builder.build();
    const sum = await expectedOf('gguf_phi3', 'sum');
    expect(distance(sum, await expectedOf('gguf_phi3', 'base'))).toBeGreaterThan(100 * TOLERANCE);
    expect(distance(await rawLogits(model, await expectedOf('gguf_phi3', 'ids')), sum)).toBeLessThan(TOLERANCE);
  });

  it.each(['reference', 'cpu'] as const)('%s: company changes no answer, and nothing is kept', async (device) => {
    const ids = await expectedOf('mixtral_experts', 'ids');
    await using model = await load('mixtral_experts', { tgtNonGranularIndex: 3 }, { device, maxBatchTokens: 7 });
    const ask = async (length: number, n = 1) => {
      const sampling = { temperature: 0.8, maxLen: 7, ignoreEos: true, nChoices: n };
      const response = await model.complete([...ids.subarray(0, length)], { sampling, seed: 5 });
      return response.choices.map((c) => [...c.tokenIds]);
    };
    const cases = [
      [4, 1],
      [9, 1],
      [5, 3],
      [12, 1],
      [4, 1],
    ] as const;
    const together = await Promise.all(cases.map(([length, n]) => ask(length, n)));
    for (const [i, [length, n]] of cases.entries()) expect(together[i]).toEqual(await ask(length, n));
    const { blocksUsed, statesUsed, prefixHits } = model.engineStats();
    expect({ blocksUsed, statesUsed, prefixHits }).toEqual({ blocksUsed: 0, statesUsed: 0, prefixHits: 0 });
    const stop = new AbortController();
    const stream = model.streamComplete(
      [...ids],
      { sampling: { maxLen: 60, ignoreEos: true } },
      { signal: stop.signal },
    );
    await stream.next();
    stop.abort();
    for await (const _ of stream);
    expect(model.engineStats()).toMatchObject({ running: 0, blocksUsed: 0, statesUsed: 0 });
    await model.dispose();
    expect(model.memory()).toEqual({ persistent: 0, arena: 0 });
  });

  it('refuses what the files do not hold', async () => {
    const without = (name: string) => {
      const { [name]: _, ...files } = filesOf('llama_deep');
      return { modelId: files };
    };
    const cases: readonly (readonly [Partial<api.XLoraOptions>, new (...a: never[]) => Error, RegExp])[] = [
      [changed('llama_deep', { hidden_size: 65 }), api.ConfigError, /hidden_size: expected 64/],
      [changed('llama_deep', { xlora_depth: 2 }), api.ConfigError, /xlora_depth: expected 3/],
      [changed('llama_deep', { xlora_depth: 1e9 }), api.ConfigError, /xlora_depth/],
      [changed('llama_deep', { xlora_size: 25 }), api.FormatError, /inner.0.weight: expected shape \[25,64\]/],
      [changed('llama_deep', { top_k_lora: 5 }), api.ConfigError, /top_k_lora: expected at most the 4 adapters/],
      [changed('llama_deep', { use_bias: false }), api.FormatError, /got "inner.0.bias"/],
      [changed('llama_deep', { softmax_temperature: 0 }), api.ConfigError, /softmax_temperature/],
      [changed('llama_deep', { layerwise_scalings: false }), api.FormatError, /last.weight: expected shape \[4,24\]/],
      [{ ordering: { order: ['adapter_1'] } }, api.ConfigError, /expected `layers`|top_k_lora/],
      [
        { ordering: { ...orderingOf('llama_deep'), layers: { 'model.layers.0.self_attn.q_proj': 0 } } },
        api.ConfigError,
        /got none/,
      ],
      [{ ordering: { baseModelId: 'other' } }, api.ConfigError, /baseModelId: expected "tiny"/],
      [{ ordering: { preloadAdapters: [{}] } }, api.ConfigError, /preloadAdapters: expected none/],
      [{ ordering: { order: ['adapter_1', 'adapter_1'] } }, api.ConfigError, /order: expected names, each once/],
      [
        { ordering: { ...orderingOf('llama_deep'), order: ['a', 'b', 'c', 'd'] } },
        api.LoraAdapterError,
        /one folder "a"/,
      ],
      [without('xlora_config.json'), api.LoraAdapterError, /expected one xlora_config.json, got none/],
      [without('xlora_classifier.safetensors'), api.LoraAdapterError, /xlora_classifier.safetensors, got none/],
      [without('adapter_1/adapter_model.safetensors'), api.LoraAdapterError, /expected adapter_model.safetensors/],
      [
        { modelId: { ...filesOf('llama_deep'), 'xlora_classifier.safetensors': new Uint8Array(20) } },
        api.FormatError,
        /xlora_classifier/,
      ],
    ];
    for (const [xlora, type, message] of cases) {
      const error = await load('llama_deep', xlora).then(
        () => undefined,
        (e: unknown) => e,
      );
      expect(error).toBeInstanceOf(type);
      expect((error as Error).message).toMatch(message);
    }
    await expect(load('llama_deep', { modelId: casePath('gemma2_nosoftmax') })).rejects.toBeInstanceOf(
      api.TramontaneError,
    );
  });

  it('refuses what does not go together', async () => {
    const xlora = { modelId: casePath('llama_plain') };
    const cases: readonly (readonly [api.LoadOptions, RegExp])[] = [
      [{ xlora, lora: true }, /xlora: expected to stand without lora/],
      [{ xlora, loraAdapters: [{ alias: 'a', source: 'b' }] }, /without lora/],
      [{ xlora, legacyLora: xlora }, /legacyLora: expected to stand without xlora/],
      [{ legacyLora: xlora, lora: true }, /legacyLora: expected to stand without lora/],
      [{ xlora, speculation: { lookup: true } }, /speculation.lookup: expected to stand without xlora/],
      [{ xlora, draftModel: modelPath('llama') }, /draftModel: expected to stand without xlora/],
    ];
    for (const [options, message] of cases) {
      const loading = api.loadModel(modelPath('llama'), { device: 'reference', ...options });
      await expect(loading).rejects.toThrow(message);
      await expect(loading).rejects.toBeInstanceOf(api.UnsupportedError);
    }
    for (const wrong of [{}, { modelId: '' }, { ...xlora, tgtNonGranularIndex: -1 }, { ...xlora, more: 1 }]) {
      const loading = api.loadModel(modelPath('llama'), { xlora: wrong as api.XLoraOptions });
      await expect(loading).rejects.toBeInstanceOf(api.ConfigError);
    }
    await using model = await load('llama_plain', {});
    await expect(model.complete([5, 6], { adapter: 'a' })).rejects.toMatchObject({ code: 'runtime_unavailable' });
  });
});
