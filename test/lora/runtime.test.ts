/** The life of adapters: names, generations, leases, limits, and what goes wrong. */
import { afterEach, describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { adapterFiles, adapterPath, distance, expectedOf, modelPath, rawLogits, withConfig } from './harness.ts';

const GREEDY = { temperature: 0, maxLen: 8, ignoreEos: true };
const ids = [5, 17, 200, 33, 90, 41, 7, 129, 64, 3, 250, 11];
const plain = adapterPath('llama', 'plain');
const some = adapterPath('llama', 'some');

const opened: api.Model[] = [];
afterEach(async () => {
  for (const m of opened.splice(0)) await m.dispose();
});

async function load(options: api.LoadOptions = {}): Promise<api.Model> {
  const model = await api.loadModel(modelPath('llama'), {
    device: 'reference',
    dtype: 'f32',
    lora: true,
    pagedAttn: { blockSize: 8 },
    ...options,
  });
  opened.push(model);
  return model;
}

const tokensOf = (r: api.CompletionResponse) => [...r.choices[0]!.tokenIds];
const rejected = (code: string) => ({ name: 'LoraAdapterError', code });

describe('names and generations', () => {
  it('tells what is loaded; equal contents are one generation', async () => {
    const model = await load();
    expect(model.listLoraAdapters()).toEqual([]);
    const info = await model.loadLoraAdapter(' a ', plain);
    expect(info).toMatchObject({ alias: 'a', source: plain, rank: 4 });
    expect(info.generation).toMatch(/^[0-9a-f]{64}$/);
    const again = await model.loadLoraAdapter('b', adapterFiles('llama', 'plain'));
    expect(again.generation).toBe(info.generation);
    const other = await model.loadLoraAdapter('c', withConfig(adapterFiles('llama', 'plain'), { lora_alpha: 9 }));
    expect(other.generation).not.toBe(info.generation);
    expect(model.listLoraAdapters().map((a) => a.alias)).toEqual(['a', 'b', 'c']);
    expect(model.loraAdapterStatus()).toMatchObject({
      generations: [
        { generation: info.generation, aliases: ['a', 'b'], retired: false, activeLeases: 0, rank: 4 },
        { generation: other.generation, aliases: ['c'], retired: false, activeLeases: 0 },
      ],
      residentGenerations: 2,
      retiredGenerations: 0,
      residentBytes: info.bytes + other.bytes,
      limits: { maxAdapters: 16, maxRank: 256, maxBytes: 8 * 2 ** 30 },
    });
  });

  it('chooses by name or by exact generation, and says which it was', async () => {
    const model = await load();
    const { generation } = await model.loadLoraAdapter('a', plain);
    const ask = (adapter?: api.AdapterSelection) =>
      model.complete(ids, { sampling: GREEDY, ...(adapter === undefined ? {} : { adapter }) });
    const base = await ask();
    const named = await ask('a');
    expect(base.adapterGeneration).toBeUndefined();
    expect(named.adapterGeneration).toBe(generation);
    expect(tokensOf(named)).not.toEqual(tokensOf(base));
    expect(tokensOf(await ask({ generation: generation.toUpperCase() }))).toEqual(tokensOf(named));
    const stream = model.streamComplete(ids, { sampling: GREEDY, adapter: 'a' });
    for await (const chunk of stream) expect(chunk.adapterGeneration).toBe(generation);
    await expect(ask('x')).rejects.toMatchObject(rejected('not_found'));
    await expect(ask({ generation: 'f'.repeat(64) })).rejects.toMatchObject(rejected('generation_not_found'));
    await expect(ask({ generation: 'f' })).rejects.toThrow(api.RequestValidationError);
    await expect(ask(' ')).rejects.toThrow(api.RequestValidationError);
  });

  it('keeps a generation for the requests that began with it', async () => {
    const model = await load({ device: 'cpu', pagedAttn: { blockSize: 32 } });
    const { generation } = await model.loadLoraAdapter('a', plain);
    // More than a reader who does not read is given: the request surely waits.
    const sampling = { ...GREEDY, maxLen: 1100 };
    const whole = await model.complete(ids, { sampling, adapter: 'a' });
    const stream = model.streamComplete(ids, { sampling, adapter: 'a' });
    await stream.next();
    await model.loadLoraAdapter('a', some, { policy: 'upsert' });
    expect(model.loraAdapterStatus()).toMatchObject({ residentGenerations: 2, retiredGenerations: 1 });
    expect(model.loraAdapterStatus().generations[0]).toMatchObject({ generation, retired: true, activeLeases: 1 });
    const late = model.complete(ids, { sampling: GREEDY, adapter: { generation } });
    await expect(late).rejects.toMatchObject(rejected('generation_not_found'));
    const final = await stream.final();
    expect(tokensOf(final)).toEqual(tokensOf(whole));
    expect(final.adapterGeneration).toBe(generation);
    await model.unloadLoraAdapter('a');
    expect(model.loraAdapterStatus()).toMatchObject({ generations: [], residentBytes: 0, adapters: [] });
  });

  it('gives all memory back', async () => {
    const model = await load();
    await model.complete(ids, { sampling: GREEDY });
    await model.loadLoraAdapter('a', plain);
    await model.complete(ids, { sampling: GREEDY, adapter: 'a' });
    await model.unloadLoraAdapter('a');
    const before = model.memory().persistent;
    const { bytes } = await model.loadLoraAdapter('a', plain);
    expect(model.memory().persistent).toBe(before + bytes);
    await expect(model.loadLoraAdapter('b', withConfig(adapterFiles('llama', 'plain'), { r: 3 }))).rejects.toThrow();
    await model.unloadLoraAdapter('a');
    expect(model.memory().persistent).toBe(before);
  });

  it('leases end with cancelled requests too', async () => {
    const model = await load();
    await model.loadLoraAdapter('a', plain);
    for await (const _ of model.streamComplete(ids, { sampling: GREEDY, adapter: 'a' })) break;
    await expect(
      model.complete(ids, { sampling: GREEDY, adapter: 'a' }, { signal: AbortSignal.abort() }),
    ).rejects.toThrow(api.AbortError);
    await model.complete(ids, { sampling: GREEDY });
    expect(model.loraAdapterStatus().generations[0]).toMatchObject({ activeLeases: 0 });
  });

  it('shares no cache between generations, and shares it within one', async () => {
    const { logits } = await expectedOf('llama');
    const model = await load();
    await model.loadLoraAdapter('a', plain);
    await model.loadLoraAdapter('b', some);
    const score = async (adapter?: string) => {
      const hits = model.engineStats().prefixHits;
      const r = await model.complete(ids, { sampling: GREEDY, ...(adapter ? { adapter } : {}) });
      return { tokens: tokensOf(r), hits: model.engineStats().prefixHits - hits };
    };
    const first = { none: await score(), a: await score('a'), b: await score('b') };
    expect([first.none.hits, first.a.hits, first.b.hits]).toEqual([0, 0, 0]);
    const second = { none: await score(), a: await score('a'), b: await score('b') };
    for (const key of ['none', 'a', 'b'] as const) {
      expect(second[key].tokens).toEqual(first[key].tokens);
      expect(second[key].hits).toBeGreaterThan(0);
    }
    expect(distance(await rawLogits(model, ids, 'a'), await logits('plain'))).toBeLessThan(1e-4);
  });

  it('loads and unloads while requests run', async () => {
    const model = await load();
    const alone = tokensOf(await model.complete(ids, { sampling: { ...GREEDY, maxLen: 40 } }));
    const running = model.complete(ids, { sampling: { ...GREEDY, maxLen: 40 } });
    for (let i = 0; i < 3; i++) {
      await model.loadLoraAdapter('a', plain);
      await model.complete(ids, { sampling: { ...GREEDY, maxLen: 2 }, adapter: 'a' });
      await model.unloadLoraAdapter('a');
    }
    expect(tokensOf(await running)).toEqual(alone);
  });
});

describe('policies', () => {
  it('create, upsert, compare and swap; unload of an expected generation', async () => {
    const model = await load();
    const a = await model.loadLoraAdapter('a', plain);
    await expect(model.loadLoraAdapter('a', some)).rejects.toMatchObject(rejected('already_loaded'));
    const b = await model.loadLoraAdapter('a', some, { policy: 'upsert' });
    expect(model.loraAdapterStatus().residentGenerations).toBe(1);
    const swap = (compareAndSwap: string) => model.loadLoraAdapter('a', plain, { policy: { compareAndSwap } });
    await expect(swap(a.generation)).rejects.toMatchObject({ code: 'generation_mismatch', generation: b.generation });
    expect((await swap(b.generation)).generation).toBe(a.generation);
    await expect(model.loadLoraAdapter('x', plain, { policy: { compareAndSwap: a.generation } })).rejects.toMatchObject(
      rejected('not_found'),
    );
    await expect(model.unloadLoraAdapter('a', { expectedGeneration: b.generation })).rejects.toMatchObject(
      rejected('generation_mismatch'),
    );
    expect(await model.unloadLoraAdapter('a', { expectedGeneration: a.generation })).toEqual(a);
    await expect(model.unloadLoraAdapter('a')).rejects.toMatchObject(rejected('not_found'));
    for (const policy of ['replace', null, { compareAndSwap: 'x' }, {}]) {
      await expect(model.loadLoraAdapter('a', plain, { policy: policy as 'create' })).rejects.toMatchObject(
        rejected('invalid_policy'),
      );
    }
  });

  it('one load at a time; an unload meanwhile is noticed', async () => {
    const model = await load();
    const first = await model.loadLoraAdapter('a', plain);
    const loading = model.loadLoraAdapter('a', some, { policy: { compareAndSwap: first.generation } });
    await expect(model.loadLoraAdapter('b', plain)).rejects.toMatchObject(rejected('load_busy'));
    await model.unloadLoraAdapter('a');
    await expect(loading).rejects.toMatchObject(rejected('generation_conflict'));
    expect(model.loraAdapterStatus().residentGenerations).toBe(0);
    await model.loadLoraAdapter('b', plain);
  });

  it('names', async () => {
    const model = await load();
    await expect(model.loadLoraAdapter('  ', plain)).rejects.toMatchObject(rejected('invalid_alias'));
    await expect(model.loadLoraAdapter(3 as never, plain)).rejects.toMatchObject(rejected('invalid_alias'));
    await expect(model.loadLoraAdapter('ü'.repeat(129), plain)).rejects.toMatchObject(rejected('alias_too_long'));
    await model.loadLoraAdapter('ü'.repeat(128), plain);
  });
});

describe('limits', () => {
  it('of adapters, rank and bytes', async () => {
    const one = await load({ loraRuntimeConfig: { maxAdapters: 1 } });
    await one.loadLoraAdapter('a', plain);
    await one.loadLoraAdapter('same', plain);
    await expect(one.loadLoraAdapter('b', some)).rejects.toMatchObject(rejected('adapter_limit'));
    await one.unloadLoraAdapter('a');
    await one.unloadLoraAdapter('same');
    await one.loadLoraAdapter('b', some);
    const low = await load({ loraRuntimeConfig: { maxRank: 3 } });
    await expect(low.loadLoraAdapter('a', plain)).rejects.toMatchObject(rejected('rank_limit'));
    await low.loadLoraAdapter('b', some);
    const { bytes } = await one.unloadLoraAdapter('b');
    const small = await load({ loraRuntimeConfig: { maxBytes: bytes } });
    await small.loadLoraAdapter('b', some);
    await expect(
      small.loadLoraAdapter('c', withConfig(adapterFiles('llama', 'some'), { lora_alpha: 1 })),
    ).rejects.toMatchObject(rejected('byte_limit'));
    const tiny = await load({ loraRuntimeConfig: { maxBytes: 1000 } });
    await expect(tiny.loadLoraAdapter('b', some)).rejects.toMatchObject(rejected('file_too_large'));
    const config = new Uint8Array(2 ** 20 + 1).fill(32);
    await expect(
      one.loadLoraAdapter('x', { ...adapterFiles('llama', 'some'), 'adapter_config.json': config }),
    ).rejects.toMatchObject(rejected('file_too_large'));
  });

  it('options are checked', async () => {
    for (const options of [
      { lora: 1 },
      { loraRuntimeConfig: { maxRank: 0 } },
      { loraAdapters: {} },
      { loraAdapters: [{ alias: '', source: plain }] },
      { loraAdapters: [{ alias: 'a' }] },
      {
        loraAdapters: [
          { alias: 'a', source: plain },
          { alias: 'a ', source: some },
        ],
      },
    ]) {
      await expect(load(options as never)).rejects.toThrow(api.ConfigError);
    }
    await expect(load({ loraAdapters: [{ alias: 'a', source: '/no/such' }] })).rejects.toMatchObject(rejected('io'));
    await expect(load({ speculation: { lookup: true } })).rejects.toThrow(api.ConfigError);
    const without = await load({ lora: false });
    await expect(without.loadLoraAdapter('a', plain)).rejects.toMatchObject(rejected('runtime_unavailable'));
    expect(() => without.listLoraAdapters()).toThrow(api.LoraAdapterError);
    await expect(without.complete(ids, { adapter: 'a' })).rejects.toMatchObject(rejected('runtime_unavailable'));
  });

  it('the builder', async () => {
    const model = await api.LoraModelBuilder.fromTextModelBuilder(
      new api.TextModelBuilder(modelPath('llama')).withDevice('reference').withDtype('f32'),
    )
      .withAdapter('a', plain)
      .withAdapters([{ alias: 'b', source: some }])
      .withRuntimeConfig({ maxAdapters: 2 })
      .build();
    opened.push(model);
    expect(model.listLoraAdapters().map((a) => a.alias)).toEqual(['a', 'b']);
    expect(model.loraAdapterStatus().limits.maxAdapters).toBe(2);
  });
});
