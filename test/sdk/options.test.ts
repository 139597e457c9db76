import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { GgufModelBuilder, ModelBuilder, TextModelBuilder } from '../../src/builders.ts';
import { ConfigError } from '../../src/core/errors.ts';
import { blockSizeOf, bytesPerPosition, cacheSize } from '../../src/core/sdk/cacheSize.ts';
import { fillDefaults, generationDefaults } from '../../src/core/sdk/generationConfig.ts';
import { loggerOf } from '../../src/core/sdk/logging.ts';
import { checkLoadOptions } from '../../src/core/sdk/options.ts';
import { Releases } from '../../src/core/sdk/releases.ts';

describe('model builders', () => {
  const setters: readonly [string, readonly unknown[], object][] = [
    ['withDevice', ['reference'], { device: 'reference' }],
    ['withForceCpu', [], { forceCpu: true }],
    ['withDtype', ['f32'], { dtype: 'f32' }],
    ['withThreads', [3], { threads: 3 }],
    ['withSimd', ['off'], { simd: 'off' }],
    ['withStrict', [], { strict: true }],
    ['withAdapter', ['x'], { adapter: 'x' }],
    ['withTokenSource', ['none'], { tokenSource: 'none' }],
    ['withHfRevision', ['main'], { hfRevision: 'main' }],
    ['withHfCachePath', ['/c'], { hfCachePath: '/c' }],
    ['withHfEndpoint', ['https://hub.example'], { hfEndpoint: 'https://hub.example' }],
    ['withOffline', [], { offline: true }],
    ['withChatTemplate', ['t'], { chatTemplate: 't' }],
    ['withJinjaExplicit', ['t.jinja'], { jinjaExplicit: 't.jinja' }],
    ['withTokenizerJson', ['t.json'], { tokenizerJson: 't.json' }],
    ['withMaxNumSeqs', [4], { maxNumSeqs: 4 }],
    ['withMaxBatchTokens', [64], { maxBatchTokens: 64 }],
    ['withMaxModelLen', [128], { maxModelLen: 128 }],
    ['withPagedAttn', [{ blockSize: 8 }], { pagedAttn: { blockSize: 8 } }],
    ['withPrefixCacheN', [0], { prefixCacheN: 0 }],
    ['withNoKvCache', [], { noKvCache: true }],
    ['withDraftModel', ['d.gguf'], { draftModel: 'd.gguf' }],
    ['withSpeculation', [{ lookup: true }], { speculation: { lookup: true } }],
    ['withMtp', [], { mtp: {} }],
    ['withLora', [{ maxRank: 8 }], { lora: true, loraRuntimeConfig: { maxRank: 8 } }],
    ['withLoraAdapters', [[{ alias: 'a', source: 'b' }]], { loraAdapters: [{ alias: 'a', source: 'b' }] }],
    ['withAnyMoe', [{ prefix: 'p' }], { anyMoe: { prefix: 'p' } }],
    ['withSeed', [7], { seed: 7 }],
    ['withLogging', ['debug'], { logging: 'debug' }],
    ['withThroughputLogging', [], { throughputLogging: true }],
    ['onProgress', [undefined], { onProgress: undefined }],
    ['withSignal', [undefined], { signal: undefined }],
    ['withIsq', [4], { isq: 4 }],
    ['withAutoIsq', [4], { autoIsq: 4 }],
    ['withMixtureQexpertsIsq', [], { mixtureQexpertsIsq: true }],
    ['withTopology', [{ 0: { isq: 'Q8_0' } }], { topology: { 0: { isq: 'Q8_0' } } }],
    ['withTopologyFromPath', ['t.yml'], { topologyFromPath: 't.yml' }],
    ['withImatrix', ['a.imatrix'], { imatrix: 'a.imatrix' }],
    ['withCalibrationFile', ['a.txt'], { calibrationFile: 'a.txt' }],
    ['withXLora', [{ modelId: 'x' }], { xlora: { modelId: 'x' } }],
    ['withLegacyLora', [{ modelId: 'x' }], { legacyLora: { modelId: 'x' } }],
    ['withFromUqff', ['q4k'], { fromUqff: 'q4k' }],
    ['withWriteUqff', ['out.uqff'], { writeUqff: 'out.uqff' }],
  ];

  it('give the plain options, for any sequence of setters', () => {
    const inherited = Object.getOwnPropertyNames(Object.getPrototypeOf(ModelBuilder.prototype) as object);
    const own = inherited.filter((n) => !['constructor', 'toOptions', 'set', 'without'].includes(n));
    expect(setters.map(([name]) => name).sort()).toEqual(own.sort());
    fc.assert(
      fc.property(fc.array(fc.nat(setters.length - 1)), (order) => {
        const builder = new TextModelBuilder('m');
        let plain = {};
        for (const i of order) {
          const [name, args, options] = setters[i]!;
          const set = builder[name as 'withThreads'] as (...a: unknown[]) => unknown;
          expect(set.apply(builder, [...args])).toBe(builder);
          plain = { ...plain, ...options };
        }
        expect(builder.toOptions()).toEqual(plain);
      }),
    );
  });

  it('name files of a repository', () => {
    const builder = new GgufModelBuilder('org/repo', ['a.gguf']).withTokModelId('org/other');
    expect(builder.toOptions()).toEqual({ files: ['a.gguf'], tokModelId: 'org/other' });
    expect(() => new GgufModelBuilder('org/repo', [])).toThrow(ConfigError);
  });

  it('refuse what cannot work, by name, at build', async () => {
    const building = new ModelBuilder('m').withMtp({ nPredict: 0 }).build();
    await expect(building).rejects.toThrow('option mtp.nPredict:');
  });
});

describe('load options', () => {
  it.each([
    [{ device: 'tpu' }, 'device'],
    [{ dtype: 'f64' }, 'dtype'],
    [{ threads: 0 }, 'threads'],
    [{ threads: 1.5 }, 'threads'],
    [{ maxNumSeqs: -1 }, 'maxNumSeqs'],
    [{ pagedAttn: { blockSize: 7 } }, 'pagedAttn.blockSize'],
    [{ pagedAttn: { memory: {} } }, 'pagedAttn.memory'],
    [{ pagedAttn: { memory: { mb: 1, contextSize: 1 } } }, 'pagedAttn.memory'],
    [{ simd: 'avx' }, 'simd'],
    [{ seed: -1 }, 'seed'],
    [{ speculation: true }, 'speculation'],
    [{ speculation: { draft: 3 } }, 'speculation.draft'],
    [{ speculation: { nPredict: 4 } }, 'speculation.nPredict'],
    [{ speculation: { nPredict: 65 }, draftModel: 'd' }, 'speculation.nPredict'],
    [{ speculation: { lookup: 3 } }, 'speculation.lookup'],
    [{ speculation: { lookup: { maxDraft: 0 } } }, 'speculation.lookup.maxDraft'],
    [{ speculation: { lookup: { minMatch: 3, maxMatch: 2 } } }, 'speculation.lookup.maxMatch'],
    [{ speculation: { lookup: true }, noKvCache: true }, 'noKvCache'],
    [{ draftModel: 'd', noKvCache: true }, 'noKvCache'],
  ])('%j is refused, naming %s', (options, name) => {
    expect(() => checkLoadOptions(options as never)).toThrow(ConfigError);
    expect(() => checkLoadOptions(options as never)).toThrow(`option ${name}:`);
  });

  it('of later versions are refused unless undefined', () => {
    expect(() => checkLoadOptions({ xlora: 'x' } as never)).toThrow(/option xlora/);
    expect(() => checkLoadOptions({ xlora: undefined } as never)).not.toThrow();
  });
});

describe('cache size', () => {
  const caches = [
    { kvHeads: 3, keyDim: 64, valueDim: 64, dtype: 'f32' },
    { kvHeads: 3, keyDim: 64, valueDim: 64, dtype: 'f16' },
  ] as const;

  it('counts bytes of a position', () => {
    expect(bytesPerPosition(caches)).toBe(3 * 128 * (4 + 2));
    const [, half] = caches;
    expect(bytesPerPosition([{ ...half, dtype: 'q8_0' }]) / bytesPerPosition([half])).toBe((1 + 4 / 32) / 2);
    expect(bytesPerPosition([{ ...half, keyDim: 576, valuesInKeys: true, dtype: 'q8_0' }])).toBe(3 * (576 + 18 * 4));
  });

  it('follows the memory asked for', () => {
    const asked = cacheSize(caches, 8192, { pagedAttn: { memory: { contextSize: 100 }, blockSize: 8 } });
    expect(asked).toMatchObject({ blocks: 12, blockSize: 8, contextLength: 96, maxBlocks: 12 });
    const mb = cacheSize(caches, 8192, { pagedAttn: { memory: { mb: 1 } } });
    expect(mb.blocks).toBe(Math.floor(2 ** 20 / (3 * 128 * 6) / 32));
    expect(() => cacheSize(caches, 8192, { pagedAttn: { memory: { contextSize: 5 } } })).toThrow(ConfigError);
  });

  it('knows what more positions would take: that much memory holds them', () => {
    const states = [{ shape: [1000] }];
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 8192 }), fc.boolean(), (positions, recurrent) => {
        const some = recurrent ? states : [];
        const { cacheLimit } = cacheSize(caches, 8192, { pagedAttn: { memory: { contextSize: 64 } } }, some);
        const mb = cacheLimit!.memoryFor(positions);
        const { contextLength } = cacheSize(caches, 8192, { pagedAttn: { memory: { mb } } }, some);
        expect(contextLength).toBeGreaterThanOrEqual(positions);
      }),
    );
    expect(cacheSize(caches, 8192, {}).cacheLimit).toBeUndefined();
  });

  it('rounds blocks up to what a back-end stores together', () => {
    expect([8, 16, 32].map((blockSize) => blockSizeOf({ pagedAttn: { blockSize } }, 32))).toEqual([32, 32, 32]);
    expect(blockSizeOf({ pagedAttn: { blockSize: 8 } })).toBe(8);
    expect(blockSizeOf({}, 1)).toBe(32);
  });

  it('always fits in its bound and holds a chat, for any model', () => {
    const spec = fc.record({
      kvHeads: fc.integer({ min: 1, max: 64 }),
      keyDim: fc.integer({ min: 1, max: 512 }),
      valueDim: fc.integer({ min: 1, max: 512 }),
      dtype: fc.constantFrom('f32' as const, 'f16' as const),
    });
    fc.assert(
      fc.property(
        fc.array(spec, { minLength: 1, maxLength: 64 }),
        fc.integer({ min: 1, max: 2 ** 20 }),
        (list, max) => {
          const size = cacheSize(list, max, {});
          expect(size.contextLength).toBeLessThanOrEqual(max);
          expect(size.contextLength).toBeGreaterThanOrEqual(Math.min(max, 4096));
          expect(size.maxBlocks).toBeLessThanOrEqual(size.blocks);
          expect(size.contextLength).toBeLessThanOrEqual(size.maxBlocks * size.blockSize);
          const bytes = size.blocks * size.blockSize * bytesPerPosition(list);
          const least = (4096 + 32) * bytesPerPosition(list);
          expect(bytes).toBeLessThanOrEqual(Math.max(512 * 2 ** 20 + 32 * bytesPerPosition(list), least));
        },
      ),
    );
  });
});

describe('generation defaults', () => {
  it('are read with their aliases and gaps', () => {
    expect(
      generationDefaults(
        {
          temperature: 0.6,
          top_k: 0,
          top_p: 0.9,
          min_p: null,
          repetition_penalty: 1.1,
          eos_token_id: [2, 3, -1],
          suppress_tokens: [9],
          max_new_tokens: 5,
        },
        'g',
      ),
    ).toEqual({
      temperature: 0.6,
      topP: 0.9,
      repetitionPenalty: 1.1,
      maxNewTokens: 5,
      suppressTokens: [9],
      eosIds: [2, 3],
    });
    expect(generationDefaults({ text_config: { eos_token_id: 7 } }, 'c')).toEqual({ eosIds: [7] });
    expect(generationDefaults(undefined, 'c')).toEqual({ eosIds: [] });
    expect(generationDefaults({ do_sample: false, temperature: 0.7, top_k: 50 }, 'g')).toEqual({
      greedy: true,
      topK: 1,
      eosIds: [],
    });
  });

  it.each([{ temperature: 'hot' }, { eos_token_id: 'x' }, { eos_token_id: [1.5] }, { top_k: {} }])(
    '%j is refused',
    (raw) => {
      expect(() => generationDefaults(raw, 'g.json')).toThrow(/^g\.json: /);
    },
  );

  it('fill what is unset and nothing else', () => {
    const d = {
      temperature: 0.5,
      topK: 7,
      topP: 0.9,
      minP: 0.1,
      repetitionPenalty: 1.2,
      suppressTokens: [4, 5],
      eosIds: [],
    };
    const filled = fillDefaults({ topK: 1, logitsBias: new Map([[5, 1]]) }, d);
    expect(filled).toEqual({
      temperature: 0.5,
      topK: 1,
      topP: 0.9,
      minP: 0.1,
      repetitionPenalty: 1.2,
      logitsBias: new Map([
        [5, 1],
        [4, -1e9],
      ]),
    });
    const full = { temperature: 0.1, topK: 2, topP: 0.3, minP: 0.4, repetitionPenalty: 5 };
    expect(fillDefaults(full, { ...d, suppressTokens: [] })).toEqual(full);
    expect(fillDefaults({ temperature: 0.9 }, { greedy: true, topK: 1, eosIds: [] })).toEqual({ temperature: 0.9 });
    expect(fillDefaults({}, { greedy: true, topK: 1, eosIds: [] })).toEqual({ topK: 1 });
  });
});

describe('logging', () => {
  it('obeys the option, then the variable', () => {
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    const error = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    try {
      loggerOf(undefined, undefined)('info', 'hidden');
      loggerOf('info', 'off')('debug', 'hidden');
      loggerOf(false, 'debug')('error', 'hidden');
      expect(warn).not.toHaveBeenCalled();
      loggerOf(undefined, 'info')('info', 'shown');
      loggerOf(true, 'off')('error', 'bad');
      expect(warn).toHaveBeenCalledWith('tramontane info: shown');
      expect(error).toHaveBeenCalledWith('tramontane error: bad');
      expect(() => loggerOf(undefined, 'loud')).toThrow(/TRAMONTANE_LOG/);
      expect(() => loggerOf('loud' as never, undefined)).toThrow(/option logging/);
    } finally {
      warn.mockRestore();
      error.mockRestore();
    }
  });
});

describe('releases', () => {
  it('run once, newest first, all of them even when one fails', async () => {
    const order: string[] = [];
    const releases = new Releases();
    releases.add(() => order.push('a'));
    const early = releases.add(async () => order.push('b'));
    releases.add(() => {
      order.push('c');
      throw new Error('c failed');
    });
    await early();
    await expect(releases.run()).rejects.toThrow('c failed');
    await releases.run();
    expect(order).toEqual(['b', 'c', 'a']);
  });
});
