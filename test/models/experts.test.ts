/** Experts and latents as they are kept and read: formats, views of tensors, bytes of caches, matrices a step touches. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import type { Views } from '../../src/backends/cpu/kernel.ts';
import { COMMAND_ARGUMENTS as ARGUMENTS, viewsOf } from '../../src/backends/cpu/kernel.ts';
import { TILE_FIELDS } from '../../src/backends/cpu/linear/driver.ts';
import { expertScratchBytes, expertsKernel } from '../../src/backends/cpu/linear/experts.ts';
import { storageType } from '../../src/core/dtype.ts';
import { WeightError } from '../../src/core/errors.ts';
import { mxfp4Rows } from '../../src/core/io/mxfp4.ts';
import type { SourceTensor } from '../../src/core/weights.ts';
import { readValues, Weights } from '../../src/core/weights.ts';
import { rowRange, slab, transposed } from '../../src/core/weightViews.ts';
import { buildDecoder } from '../../src/models/arch.ts';
import { archOf } from '../../src/models/registry.ts';
import { backends, codec, fixtures, LoadedModel, openModel } from './harness.ts';

function tensor(type: 'F32' | 'U8', shape: readonly number[], bytes: Uint8Array): SourceTensor {
  const width = shape[shape.length - 1]! * storageType(type).blockBytes;
  return {
    ...{ name: 'w', type: storageType(type), shape, order: 0 },
    readRows: async (first, rows, target) => target.set(bytes.subarray(first * width, (first + rows) * width)),
  };
}

const counting = (n: number) => new Uint8Array(Float32Array.from({ length: n }, (_, i) => i).buffer);

async function rows(t: SourceTensor, first: number, n: number): Promise<number[]> {
  const bytes = new Uint8Array(n * t.shape[t.shape.length - 1]! * 4);
  await t.readRows(first, n, bytes);
  return [...new Float32Array(bytes.buffer)];
}

describe('views of tensors', () => {
  it('transposed matrices give any rows, in any order', async () => {
    const sizes = fc.record({
      count: fc.nat(3),
      rows: fc.nat(5),
      columns: fc.nat(6),
      reads: fc.array(fc.nat(), { maxLength: 6 }),
    });
    await fc.assert(
      fc.asyncProperty(sizes, async (p) => {
        const [count, height, width] = [p.count + 1, p.rows + 1, p.columns + 1];
        const view = transposed(
          tensor('F32', [count, height, width], counting(count * height * width)),
          count,
          height,
          width,
        );
        expect(view.shape).toEqual([count * width, height]);
        for (const seed of [0, ...p.reads]) {
          const first = seed % (count * width);
          const n = 1 + (seed % (count * width - first));
          const expected = Array.from({ length: n * height }, (_, i) => {
            const row = first + Math.floor(i / height);
            return (Math.floor(row / width) * height + (i % height)) * width + (row % width);
          });
          expect(await rows(view, first, n)).toEqual(expected);
        }
      }),
    );
  });

  it('slabs and ranges begin where they are said to', async () => {
    const t = tensor('F32', [6, 2], counting(12));
    expect(await rows(slab(t, 1, 3, 2), 1, 2)).toEqual([8, 9, 10, 11]);
    expect(await rows(rowRange(t, 2, 2, 2), 0, 2)).toEqual([4, 5, 6, 7]);
  });
});

describe('MXFP4 in two tensors', () => {
  /** Magnitudes of the codes, by the format's definition. */
  const MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

  it('keeps every value', async () => {
    const random = fc.tuple(
      fc.uint8Array({ minLength: 96, maxLength: 96 }),
      fc.array(fc.integer({ min: 90, max: 160 }), { minLength: 6, maxLength: 6 }),
    );
    await fc.assert(
      fc.asyncProperty(random, async ([codes, scales]) => {
        const whole = mxfp4Rows(
          tensor('U8', [3, 2, 16], codes),
          tensor('U8', [3, 2], Uint8Array.from(scales)),
          [3, 64],
        );
        const values = await readValues(whole, codec);
        const expected = Array.from({ length: 192 }, (_, i) => {
          const code = (codes[i >> 1]! >> (4 * (i & 1))) & 15;
          return (code & 8 ? -1 : 1) * MAGNITUDES[code & 7]! * 2 ** (scales[i >> 5]! - 127);
        });
        // A negative zero is a zero.
        expect([...values].map((x) => x + 0)).toEqual(expected.map((x) => x + 0));
      }),
    );
  });

  it('refuses other sizes', () => {
    const make = (shape: readonly [number, number]) =>
      mxfp4Rows(tensor('U8', [3, 2, 16], new Uint8Array(96)), tensor('U8', [3, 2], new Uint8Array(6)), shape);
    expect(() => make([4, 64])).toThrow(WeightError);
    expect(() => make([6, 48])).toThrow(WeightError);
  });

  it('stays in memory as it is', async () => {
    const backend = await createCpuBackend({ threads: 1 });
    try {
      const opened = await openModel(new URL('gpt_oss_mxfp4/', fixtures));
      const arch = await archOf(opened.config);
      const weights = Weights.open({ backend, source: opened.source, codec });
      buildDecoder(arch, weights, arch.config(opened.config));
      await weights.load();
      const experts = [...weights.weights].filter(([name]) => name.includes('.experts.'));
      expect(experts.length).toBe(4);
      for (const [, weight] of experts) expect(weight.data.formats).toEqual(['MXFP4']);
      weights.dispose();
    } finally {
      await backend.dispose();
    }
  });
});

describe.each(backends)('$name', ({ create, blockSize }) => {
  it('a latent cache holds one key for all heads and no values', async () => {
    const backend = await create();
    try {
      const opened = await openModel(new URL('deepseek_v3/', fixtures));
      const config = opened.config as { kv_lora_rank: number; qk_rope_head_dim: number; num_hidden_layers: number };
      const model = await LoadedModel.load(backend, blockSize, opened);
      const { blocks, blockSize: size } = model.runner.options;
      const perPosition = 4 * (config.kv_lora_rank + config.qk_rope_head_dim);
      const least = config.num_hidden_layers * blocks * size * perPosition;
      // Rows may be padded to whole vectors, and blocks to whole tiles.
      expect(model.runner.cacheBytes).toBeGreaterThanOrEqual(least);
      expect(model.runner.cacheBytes).toBeLessThan(1.1 * least);
      model.dispose();
    } finally {
      await backend.dispose();
    }
  });
});

describe('matrices that a step reads', () => {
  const E = 8;
  const F = 16;
  const C = 32;
  const GROUP_BYTES = 8 * C * 4;

  /** Runs the kernel's twin for `chosen` (`[rows, k]`) and lists the weight rows that tile kernels were given. */
  function tilesOf(chosen: readonly number[], perRow: number, threads: number) {
    const sizes = {
      expertCount: E,
      pairs: chosen.length,
      columns: C,
      features: F,
      codeBytes: 4 * C,
      scaleBytes: 0,
      sumBytes: 0,
    };
    const stride = expertScratchBytes(sizes);
    // Behind the command, which lies at address 0.
    const [experts, x, y] = [1024, 4096, 65536];
    const scratch = 131072;
    const m: Views = viewsOf(new ArrayBuffer(scratch + threads * stride));
    m.i32.set(chosen, experts / 4);
    const fields = Object.keys(TILE_FIELDS);
    const read: { readonly expert: number; readonly bytes: number }[] = [];
    const args = {
      ...sizes,
      ...{ w: 0, first: 0, rows: E * F, groupBytes: GROUP_BYTES, experts, x, y, pairsPerRow: perRow },
      ...{ scratch, scratchStride: stride, prepare: 0, tile1: 1, tile2: 2, tile3: 3, tile4: 4, direct: 0 },
    };
    const arguments_ = (record: number, name: string) => m.i32[record / 4 + ARGUMENTS + fields.indexOf(name)]!;
    for (const [name, value] of Object.entries(args)) m.i32[expertsKernel.at[name as keyof typeof args]] = value;
    expertsKernel.runTwin(m, 0, 0, threads, (entry, record) => {
      if (entry === args.prepare) return;
      const bytes = (arguments_(record, 'rows') / 8) * GROUP_BYTES;
      read.push({ expert: arguments_(record, 'w') / (F / 8) / GROUP_BYTES, bytes });
    });
    return read;
  }

  it('decode reads the matrices of the chosen experts, each once', () => {
    const read = tilesOf([6, 1, 3], 3, 1);
    expect(read.map((r) => r.expert)).toEqual([1, 3, 6]);
    expect(read.reduce((n, r) => n + r.bytes, 0)).toBe(3 * F * C * 4);
  });

  it('prefill reads a matrix once for four rows that chose it', () => {
    const rows = 10;
    const chosen = Array.from({ length: rows }, (_, r) => [r % 2, 5]).flat();
    const read = tilesOf(chosen, 2, 1);
    expect(read.map((r) => r.expert)).toEqual([0, 0, 1, 1, 5, 5, 5]);
  });
});
