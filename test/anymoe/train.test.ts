/** Gates trained at load equal those of PyTorch; stored ones choose as they did; bad files are refused. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { writeGates } from '../../src/core/anymoe/gates.ts';
import { trainGate } from '../../src/core/anymoe/train.ts';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import * as api from '../../src/index.ts';
import { distance, modelPath, rawLogits } from '../lora/harness.ts';
import { CASES, casePath, chatTemplate, expectedOf, optionsOf, tensorsOf, tokenizerJson } from './harness.ts';

const folder = mkdtempSync(join(tmpdir(), 'tramontane-anymoe-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, text: string): string {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
}

const TRAINING = { training: true, epochs: 12, batchSize: 6, lr: 0.05 } as const;

function load(name: string, anyMoe: Partial<api.AnyMoeOptions>, options: api.LoadOptions = {}): Promise<api.Model> {
  const own = { ...optionsOf(name), ...anyMoe };
  const more = { device: 'reference', dtype: 'f32', tokenizerJson, chatTemplate } as const;
  return api.loadModel(modelPath(CASES[name]!.model), { ...more, anyMoe: own, ...options });
}

/** Options that train on a file; what `config` leaves out is not given. */
function training(name: string, datasetPath: string, config: Partial<api.AnyMoeConfig> = {}): api.AnyMoeOptions {
  const { gateModelId: _, ...stored } = optionsOf(name).config;
  return { ...optionsOf(name), datasetPath, config: { ...stored, ...TRAINING, ...config } };
}

async function failure(loading: Promise<api.Model>): Promise<Error> {
  const error: unknown = await loading.then(
    (model) => model.dispose(),
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(Error);
  return error as Error;
}

describe('training', () => {
  it('in small batches takes the steps that PyTorch takes', async () => {
    const get = (tensor: string) => expectedOf('llama_tuned', `small.${tensor}`);
    const [inputs, lengths, experts, orders] = await Promise.all(
      ['inputs', 'lengths', 'experts', 'orders'].map((t) => get(t)),
    );
    let at = 0;
    const examples = [...lengths!].map((length, i) => {
      const rows = inputs!.slice(at * 64, (at + length) * 64);
      at += length;
      return { inputs: rows, expert: experts![i]! };
    });
    const order = (epoch: number) => orders!.subarray(6 * epoch, 6 * epoch + 6);
    const settings = { hidden: 64, experts: 3, lr: 0.01, epochs: 5, batchSize: 4, order };
    const gate = await trainGate(examples, settings);
    expect(gate.losses).toHaveLength(10);
    expect(distance(Float32Array.from(gate.losses), await get('losses'))).toBeLessThan(1e-6);
    expect(distance(Float32Array.from(gate.weight), await get('weight'))).toBeLessThan(1e-5);
    expect(distance(Float32Array.from(gate.bias), await get('bias'))).toBeLessThan(1e-5);
  });

  it.each([
    ['llama_tuned', 'dataset.csv', 'reference', {}],
    ['llama_tuned', 'dataset.json', 'cpu', { routing: { topK: 1 } }],
    ['phi_lora', 'dataset.json', 'reference', {}],
  ] as const)(
    '%s on %s, %s: gates and losses are those of PyTorch, and can be loaded',
    async (name, data, device, more) => {
      const gates = join(folder, `${name}-${device}`);
      const losses = join(folder, `${name}-${device}.csv`);
      const anyMoe = training(name, casePath(name, data), { gateModelId: gates, lossCsvPath: losses, ...more });
      await using model = await load(name, anyMoe, { device });
      const saved = await tensorsOf(join(gates, 'gate.safetensors'));
      const { layers } = CASES[name]!;
      expect(saved.names.sort()).toEqual(layers.flatMap((n) => [`moe_gate.${n}.bias`, `moe_gate.${n}.weight`]).sort());
      const lines = readFileSync(losses, 'utf8').trim().split('\n');
      expect(lines[0]).toBe(['Step', ...layers.map((_, i) => `Gating layer ${i}`)].join(','));
      for (const [i, layer] of layers.entries()) {
        for (const part of ['weight', 'bias']) {
          const expected = await expectedOf(name, `trained.${layer}.${part}`);
          expect(distance(await saved.values(`moe_gate.${layer}.${part}`), expected)).toBeLessThan(2e-3);
        }
        const expected = await expectedOf(name, `trained.${layer}.losses`);
        expect(lines.slice(1).map((l) => Number(l.split(',')[i + 1]))).toEqual(
          [...expected].map((x) => expect.closeTo(x, 3)),
        );
        expect(expected.at(-1)!).toBeLessThan(expected[0]!);
      }
      expect(model.engineStats()).toMatchObject({ steps: 0, promptTokens: 0, blocksUsed: 0 });
      const ids = await expectedOf(name, 'ids');
      const logits = await rawLogits(model, ids);
      const { datasetPath: _, ...rest } = anyMoe;
      await using again = await load(name, { ...rest, config: { ...anyMoe.config, training: false } }, { device });
      expect(await rawLogits(again, ids)).toEqual(logits);
    },
  );

  it('stops when it is told to, and keeps nothing', async () => {
    const stop = new AbortController();
    const anyMoe = training('llama_tuned', casePath('llama_tuned', 'dataset.csv'), { epochs: 100_000 });
    let epochs = 0;
    const onProgress = ({ stage }: api.LoadProgressEvent) => {
      if (stage === 'warmup' && ++epochs === 1) setTimeout(() => stop.abort(), 50);
    };
    const error = await failure(load('llama_tuned', anyMoe, { signal: stop.signal, onProgress }));
    expect(error).toBeInstanceOf(api.AbortError);
    expect(epochs).toBeLessThan(200_000);
  });
});

describe('builders', () => {
  it('load what options load', async () => {
    const ids = await expectedOf('llama_tuned', 'ids');
    const base = () =>
      new api.TextModelBuilder(modelPath('llama')).withDevice('reference').withDtype('f32').withImatrix('none.imatrix');
    const { config, prefix, mlp, modelIds, layers } = optionsOf('llama_tuned');
    await using model = await api.AnyMoeModelBuilder.fromTextBuilder(
      base(),
      config,
      undefined,
      prefix,
      mlp,
      modelIds,
      layers,
    ).build();
    expect(distance(await rawLogits(model, ids), await expectedOf('llama_tuned', 'logits'))).toBeLessThan(2e-4);
    const gguf = new api.GgufModelBuilder(modelPath('gguf_phi3_f16').replace('/model.gguf', ''), ['model.gguf']);
    const of = optionsOf('gguf_phi3');
    await using second = await api.AnyMoeModelBuilder.fromGgufBuilder(
      gguf.withDevice('reference').withDtype('f32'),
      of.config,
      undefined,
      of.prefix,
      of.mlp,
      of.modelIds,
      of.layers,
    ).build();
    const expected = await expectedOf('gguf_phi3', 'logits');
    expect(distance(await rawLogits(second, await expectedOf('gguf_phi3', 'ids')), expected)).toBeLessThan(2e-4);
    await second.dispose();
    expect(second.memory()).toEqual({ persistent: 0, arena: 0 });
  });

  it('quantize experts as they do the rest', async () => {
    await using model = await load('llama_tuned', {}, { dtype: 'auto', isq: 'Q8_0', device: 'cpu' });
    const ids = await expectedOf('llama_tuned', 'ids');
    const far = distance(await rawLogits(model, ids), await expectedOf('llama_tuned', 'logits'));
    expect(far).toBeLessThan(0.1);
    await model.reIsqModel('Q8_0');
    expect(distance(await rawLogits(model, ids), await expectedOf('llama_tuned', 'logits'))).toBe(far);
  });
});

describe('a base of quantized blocks', () => {
  it.each(['cpu', 'reference'] as const)('%s: keeps them beside matrices of floats', async (device) => {
    const noise = (rows: number, columns: number, seed: number) => ({
      type: 'F32' as const,
      shape: [rows, columns],
      data: Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(seed + i * 12.9898) / Math.sqrt(columns)),
    });
    const matrices = ['gate_proj', 'down_proj'].flatMap((module, i) => {
      const [out, width] = i === 0 ? [512, 256] : [256, 512];
      const at = `model.layers.0.mlp.${module}`;
      return [
        [`${at}.lora_A.weight`, noise(2, width!, 1 + i)] as const,
        [`${at}.lora_B.weight`, noise(out!, 2, 5 + i)] as const,
      ];
    });
    const gates = join(folder, `gates-${device}`);
    mkdirSync(gates);
    const gate = new Map([[0, { weight: noise(2, 256, 9).data, bias: Float32Array.of(0, 50) }]]);
    writeFileSync(join(gates, 'gate.safetensors'), writeGates(gate, 256));
    const lora = { rank: 2, alpha: 4, targetModules: ['gate_proj', 'down_proj'] };
    const anyMoe: api.AnyMoeOptions = {
      config: { hiddenSize: 256, expertType: { lora }, training: false, gateModelId: gates },
      ...{ prefix: 'model.layers', mlp: 'mlp', layers: [0] },
      modelIds: [{ 'adapter_model.safetensors': writeSafetensors(matrices) }],
    };
    const path = modelPath('gguf_llama_q4_k_m');
    await using exact = await api.loadModel(path, { device: 'reference', dtype: 'f32', anyMoe });
    await using alone = await api.loadModel(path, { device: 'reference', dtype: 'f32' });
    await using packed = await api.loadModel(path, { device, anyMoe });
    const ids = Array.from({ length: 12 }, (_, i) => 5 + 7 * i);
    const logits = await rawLogits(exact, ids);
    expect(distance(await rawLogits(alone, ids), logits)).toBeGreaterThan(0.1);
    expect(distance(await rawLogits(packed, ids), logits)).toBeLessThan(0.05);
  });
});

describe('refusals', () => {
  it.each([
    ['no-rows.json', '{"rows":[]}', api.FormatError, /expected 1 to/],
    ['no-list.json', '{"rows":3}', api.FormatError, /expected \{ rows/],
    ['cut.json', '{"rows":[{"prompt":"w5","expert":', api.FormatError, /cut.json/],
    [
      'high.json',
      '{"rows":[{"prompt":"w5","expert":3}]}',
      api.ConfigError,
      /row 1: expert: expected a number from 0 .* to 2/,
    ],
    ['kind.json', '{"rows":[{"prompt":5,"expert":1}]}', api.ConfigError, /row 1: prompt: expected a text, got 5/],
    ['image.json', '{"rows":[{"prompt":"w5","expert":1,"image_urls":["a.png"]}]}', api.UnsupportedError, /images/],
    ['column.csv', 'prompt,label\nw5,1\n', api.FormatError, /expected a column expert, got prompt, label/],
    ['cells.csv', 'prompt,expert\nw5\n', api.FormatError, /row 1: expected 2 cells, got 1/],
    ['number.csv', 'prompt,expert\nw5,one\n', api.ConfigError, /expert: expected a number .* got "one"/],
    ['quote.csv', 'prompt,expert\n"w5,1\n', api.FormatError, /row 2: expected a quote at the end/],
    ['empty.csv', '', api.FormatError, /expected a column prompt/],
  ] as const)('a dataset like %s', async (name, text, type, message) => {
    const error = await failure(load('llama_tuned', training('llama_tuned', file(name, text))));
    expect(error.message).toMatch(message);
    expect(error).toBeInstanceOf(type);
  });

  it('reads quoted cells', async () => {
    const rows = 'expert,prompt\r\n1,"w5 w6\n w7, ""w8"""\r\n\r\n0,w9\r\n';
    await using model = await load('llama_tuned', training('llama_tuned', file('quoted.csv', rows), { epochs: 1 }));
    expect(model.engineStats().running).toBe(0);
  });

  it('gates and experts of another model', async () => {
    const cases: readonly (readonly [Partial<api.AnyMoeOptions>, RegExp])[] = [
      [{ layers: [1] }, /moe_gate.1.weight", found none|found none/],
      [{ layers: [7] }, /expected layers with a dense MLP at "model.layers.7.mlp"/],
      [{ mlp: 'block' }, /"model.layers.0.block"/],
      [
        { modelIds: [casePath('llama_tuned', 'expert_1')] },
        /moe_gate.0.weight": expected shape \[2,64\], got \[3,64\]/,
      ],
      [
        { modelIds: [casePath('phi_lora', 'expert_1'), casePath('llama_tuned', 'expert_2')] },
        /tensor .* of an expert, found none/,
      ],
      [{ modelIds: [casePath('llama_tuned'), casePath('llama_tuned')] }, /gates|gate/],
      [{ config: { ...optionsOf('llama_tuned').config, hiddenSize: 32 } }, /hiddenSize: expected 64, got 32/],
      [
        { config: { ...optionsOf('llama_tuned').config, gateModelId: casePath('llama_tuned') } },
        /one safetensors file|gate/,
      ],
    ];
    for (const [anyMoe, message] of cases) {
      const error = await failure(load('llama_tuned', anyMoe));
      expect(error.message).toMatch(message);
      expect(error).toBeInstanceOf(api.TramontaneError);
    }
    const { lora } = CASES['phi_lora']!.expertType as Exclude<api.AnyMoeExpertType, string>;
    const wrongRank = { ...optionsOf('phi_lora').config, expertType: { lora: { ...lora, rank: 2 } } };
    const error = await failure(load('phi_lora', { config: wrongRank }));
    expect(error.message).toMatch(/lora_A.weight": expected a matrix \[2,64\], got \[3,64\]/);
  });

  it('options that cannot be meant', async () => {
    const { config } = optionsOf('llama_tuned');
    const { gateModelId: _, ...without } = config;
    const cases: readonly (readonly [object, RegExp])[] = [
      [{ config: without }, /gateModelId: expected where trained gates are/],
      [{ config: { ...config, training: true } }, /datasetPath: expected a file/],
      [{ config: { ...config, lr: 0 } }, /lr: expected a positive number/],
      [{ config: { ...config, epochs: 1e9 } }, /epochs/],
      [{ config: { ...config, expertType: 'other' } }, /expertType: expected "fineTuned"/],
      [{ config: { ...config, routing: { topK: 4 } } }, /topK: expected an integer from 1 to 3/],
      [{ config: { ...config, lossCsvPath: 'loss.txt' } }, /ends in .csv/],
      [{ config: { ...config, more: 1 } }, /got more/],
      [{ modelIds: [] }, /modelIds: expected 1 to/],
      [{ layers: [-1] }, /layers\[0\]/],
    ];
    for (const [anyMoe, message] of cases) {
      const error = await failure(load('llama_tuned', anyMoe as Partial<api.AnyMoeOptions>));
      expect(error.message).toMatch(message);
      expect(error).toBeInstanceOf(api.ConfigError);
    }
    for (const other of [
      { lora: true },
      { xlora: { modelId: 'a' } },
      { legacyLora: { modelId: 'a' } },
      { mtp: {} },
      { calibrationFile: 'a.txt', isq: 4 },
    ]) {
      expect(await failure(load('llama_tuned', {}, other))).toBeInstanceOf(api.UnsupportedError);
    }
  });

  it('prompts that one step cannot take', async () => {
    await using model = await load('llama_tuned', {}, { maxBatchTokens: 10 });
    const eleven = Array.from({ length: 11 }, (_, i) => i + 3);
    await expect(model.complete(eleven, { sampling: { maxLen: 1 } })).rejects.toMatchObject({
      code: 'prompt_too_long',
      message: expect.stringMatching(/at most the 10 tokens of one step.* raise maxBatchTokens/),
    });
    await expect(model.sendRawTokens(eleven)).rejects.toMatchObject({ code: 'prompt_too_long' });
    const { config } = optionsOf('llama_tuned');
    await using free = await load(
      'llama_tuned',
      { config: { ...config, routing: { topK: 1 } } },
      { maxBatchTokens: 10 },
    );
    expect((await free.complete(eleven, { sampling: { maxLen: 1 } })).usage.promptTokens).toBe(11);
  });
});
