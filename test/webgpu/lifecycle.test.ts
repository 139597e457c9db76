/** Models on the GPU from load to disposal: answers, round trips, what is left, and a device that goes away. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createWebGpuBackend } from '../../src/backends/webgpu/index.ts';
import * as api from '../../src/index.ts';
import { nodeGpu } from '../../src/platform/nodeGpu.ts';
import { letters, loadTiny } from '../e2e/tiny.ts';
import { engineOn } from '../engine/tinyEngine.ts';
import { openWebGpu } from './support.ts';

const probe = await openWebGpu();
const missing = typeof probe === 'string' ? probe : undefined;
if (typeof probe === 'string') console.warn(`lifecycle on webgpu: skipped: ${probe}`);
else await probe.dispose();

const greedy = (maxLen: number) => ({ sampling: { topK: 1, ignoreEos: true, maxLen } });

/** The devices that were opened last, newest last: seen on their way through `navigator.gpu`. */
const opened: GPUDevice[] = [];

/** A `GPU` that hands on to the real one and remembers devices. */
function watched(gpu: GPU): GPU {
  return {
    wgslLanguageFeatures: gpu.wgslLanguageFeatures,
    requestAdapter: async (options?: GPURequestAdapterOptions) => {
      const adapter = await gpu.requestAdapter(options);
      return (
        adapter && {
          features: adapter.features,
          limits: adapter.limits,
          info: adapter.info,
          requestDevice: async (descriptor: GPUDeviceDescriptor) => {
            const device = await adapter.requestDevice(descriptor);
            opened.push(device);
            return device;
          },
        }
      );
    },
  } as unknown as GPU;
}

describe.skipIf(missing !== undefined)(`webgpu${missing ? `: ${missing}` : ''}`, { timeout: 240_000 }, () => {
  const KEPT = Symbol.for('tramontane.gpu');
  let real: GPU;
  beforeAll(async () => {
    real = (await nodeGpu()) as GPU;
    (globalThis as { [KEPT]?: unknown })[KEPT] = watched(real);
  });
  afterAll(() => {
    (globalThis as { [KEPT]?: unknown })[KEPT] = real;
  });

  describe('a model', () => {
    let model: api.Model;
    let expected: api.Model;
    beforeAll(async () => {
      model = await loadTiny({ device: 'webgpu' });
      expected = await loadTiny({ device: 'reference' });
    });
    afterAll(async () => {
      await model?.dispose();
      await expected?.dispose();
    });

    it('says where it runs', () => {
      expect(model.config()).toMatchObject({ device: 'webgpu', backend: { name: 'webgpu' } });
      expect(model.config().backend.reason).toMatch(/adapter/);
    });

    it('answers like the reference, alone and in company, greedy and sampled', async () => {
      const sampled = { seed: 9, sampling: { temperature: 0.8, topK: 20, maxLen: 12, ignoreEos: true } };
      const ask = (m: api.Model) =>
        Promise.all([
          m.complete(letters(40, 3), greedy(24)),
          m.complete(letters(9, 5), greedy(30)),
          m.complete(letters(70, 7), sampled),
          m.complete(letters(5, 9), { ...sampled, sampling: { ...sampled.sampling, topK: undefined, topP: 0.9 } }),
        ]).then((all) => all.map((r) => [...r.choices[0]!.tokenIds]));
      expect(await ask(model)).toEqual(await ask(expected));
    });

    it('stops at a stop string and when its reader leaves, and goes on', async () => {
      const { choices } = await expected.complete(letters(9, 5), greedy(30));
      const seqs = [choices[0]!.text.slice(5, 8)];
      const stopped = { sampling: { ...greedy(30).sampling, stopToks: { seqs } } };
      const [a, b] = await Promise.all([model, expected].map((m) => m.complete(letters(9, 5), stopped)));
      expect(a!.choices[0]).toMatchObject({ text: b!.choices[0]!.text, finishReason: 'stop' });
      for await (const _ of model.streamComplete(letters(9, 5), greedy(300))) break;
      expect((await model.complete(letters(9, 5), greedy(30))).choices[0]!.text).toBe(choices[0]!.text);
      expect(model.engineStats()).toMatchObject({ running: 0, blocksUsed: 0 });
    });

    it('gives raw logits within the bounds of 32-bit floats', async () => {
      const rows = async (m: api.Model) => (await m.sendRawTokens(letters(33, 3))).logitsChunks[0]!.toFloat32Array();
      const [got, want] = [await rows(model), await rows(expected)];
      expect(Math.max(...got.map((v, i) => Math.abs(v - want[i]!)))).toBeLessThan(1e-3);
    });
  });

  it('a token takes one submission and one readback, and no new bind groups', async () => {
    const backend = await createWebGpuBackend({ gpu: real });
    const { engine, close } = await engineOn(backend);
    await engine.generate({ prompt: letters(9, 3), sampling: { topK: 1, maxLen: 8 } });
    const before = { ...backend.counters };
    await engine.generate({ prompt: letters(9, 5), sampling: { topK: 1, maxLen: 40 } });
    const { submits, readbacks, groups } = backend.counters;
    // The prompt is a step of its own, which gives the first token.
    expect(submits - before.submits).toBe(40);
    expect(readbacks - before.readbacks).toBe(40);
    expect(groups - before.groups).toBe(0);
    await close();
    expect(backend.memory().persistent).toBe(0);
    await backend.dispose();
  });

  describe('a device that is lost', () => {
    it('ends what runs with a typed error, refuses what comes, and the model can be loaded again', async () => {
      const model = await loadTiny({ device: 'webgpu' });
      const stream = model.streamComplete(letters(9, 3), greedy(2000));
      await stream.next();
      opened.at(-1)!.destroy();
      const failure = (async () => {
        for await (const _ of stream);
      })();
      await expect(failure).rejects.toThrow(api.ModelError);
      await expect(failure).rejects.toMatchObject({ cause: { reason: 'lost' } });
      await expect(model.complete(letters(9, 3), greedy(5))).rejects.toThrow(/lost.*load it again/);
      await model.dispose();
      const again = await loadTiny({ device: 'webgpu' });
      expect((await again.complete(letters(9, 3), greedy(5))).choices[0]!.tokenIds.length).toBe(5);
      await again.dispose();
    });
  });

  it('what does not fit is refused with its size, and nothing is left', async () => {
    const backend = await createWebGpuBackend({ gpu: real });
    const { maxBinding } = backend.gpu.facts;
    const held = backend.gpu.bytes;
    expect(() => backend.persistent([Math.ceil(maxBinding / 4) + 1024])).toThrow(api.DeviceError);
    expect(() => backend.persistent([Math.ceil(maxBinding / 4) + 1024])).toThrow(/MiB in one buffer.*smaller context/);
    expect(backend.gpu.bytes).toBe(held);
    await backend.dispose();
    await expect(loadTiny({ device: 'webgpu', pagedAttn: { memory: { contextSize: 2 ** 30 } } })).rejects.toThrow(
      /MiB in one buffer/,
    );
  });

  it('no adapter of a name, or none at all, is said so', async () => {
    await expect(createWebGpuBackend({ gpu: undefined })).rejects.toMatchObject({ feature: 'webgpu' });
    await expect(createWebGpuBackend({ gpu: real, adapter: 'no such' })).rejects.toThrow(
      /no adapter is called "no such"/,
    );
    const none = { requestAdapter: async () => null } as unknown as GPU;
    await expect(createWebGpuBackend({ gpu: none })).rejects.toThrow(/found no adapter/);
  });

  it('50 times loaded, used and disposed of: the device holds nothing, the process no more than before', async () => {
    const resident: number[] = [];
    for (let i = 0; i < 50; i++) {
      const model = await loadTiny({ device: 'webgpu' });
      const stream = model.streamComplete(letters(9, i), greedy(60));
      for (let n = 0; n < 3; n++) await stream.next();
      if (i % 2) await stream.return?.();
      await model.dispose();
      globalThis.gc?.();
      resident.push(process.memoryUsage.rss());
    }
    const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length;
    expect(mean(resident.slice(40)) / mean(resident.slice(30, 40))).toBeLessThan(1.03);
  });
});
