import { describe, expect, it } from 'vitest';
import { ConfigError, ISQ_TYPES, type LoadOptions, loadModel, UnsupportedError } from '../../src/index.ts';
import { quantFormat } from '../../src/quant/registry.ts';
import { logitsOf, type Matrices, matricesOf, relativeError, rounded, SMALL, type Spec, writeModel } from './models.ts';

async function loaded(folder: string, options: LoadOptions) {
  const lines: string[] = [];
  const model = await loadModel(folder, {
    pagedAttn: { cacheType: 'f32' },
    ...options,
    logging: (level, m) => level === 'warn' && lines.push(m),
  });
  const logits = await logitsOf(model);
  const report = model.quantReport();
  await model.dispose();
  return { logits, report, lines, stored: new Map(report.layers.map((l) => [l.module, l.stored])) };
}

async function exact(folder: string): Promise<Float32Array> {
  const model = await loadModel(folder, { device: 'reference', dtype: 'f32' });
  const logits = await logitsOf(model);
  await model.dispose();
  return logits;
}

/** The model whose weights are what the report says the others became. */
async function expected(s: Spec, matrices: Matrices, stored: ReadonlyMap<string, string>): Promise<Float32Array> {
  const changed: Matrices = new Map(matrices);
  for (const [name, { shape, data }] of matrices) {
    const type = stored.get(name.replace(/\.weight$/, ''));
    if (type) changed.set(name, { shape, data: rounded(type, data, shape.at(-1)!) });
  }
  return exact(writeModel(s, changed));
}

describe('quantization at load', () => {
  const matrices = matricesOf(SMALL);
  const folder = writeModel(SMALL, matrices);

  it.each(ISQ_TYPES)('%s: logits are those of the rounded weights', async (isq) => {
    const { logits, report, stored, lines } = await loaded(folder, { device: 'reference', isq });
    expect(lines).toEqual([]);
    expect(report.default).toBe(isq);
    expect(stored.get('model.layers.0.mlp.down_proj')).toBe(isq);
    expect(report.layers.length).toBe(7 + 2);
    expect(report.bytesAfter).toBeLessThan(report.bytesBefore / 3);
    const rounds = await expected(SMALL, matrices, stored);
    expect(relativeError(logits, rounds)).toBeLessThan(1e-5);
    expect(relativeError(logits, await exact(folder))).toBeGreaterThan(1e-4);
    const cpu = await loaded(folder, { device: 'cpu', threads: 1, isq });
    expect(cpu.report.layers).toEqual(report.layers);
    // Activations are rounded to 8 bits there.
    expect(relativeError(cpu.logits, rounds)).toBeLessThan(0.025);
  });

  it('takes names in any spelling, and numbers of bits', async () => {
    for (const [isq, type] of [
      ...[['q4_k', 'Q4K'] as const, ['fp8', 'F8E4M3'] as const, ['afq4', 'AFQ4'] as const, ['4', 'Q4K'] as const],
      ...[[2, 'Q2K'] as const, [3, 'Q3K'] as const, [5, 'Q5K'] as const, [6, 'Q6K'] as const, [8, 'Q8_0'] as const],
    ]) {
      const { report } = await loaded(folder, { device: 'reference', isq });
      expect(report.default).toBe(type);
    }
    const { report } = await loaded(folder, { device: 'reference', autoIsq: 4 });
    expect(report.default).toBe('Q4K');
  });

  it('gives embeddings and output matrix a finer type', async () => {
    for (const [isq, finer] of [
      ['Q4K', 'Q6K'],
      ['Q5_0', 'Q8_0'],
      ['IQ4_XS', 'Q6K'],
      ['Q6K', 'Q8_0'],
      ['AFQ3', 'AFQ6'],
      ['AFQ6', 'AFQ8'],
    ]) {
      const { stored, report } = await loaded(folder, { device: 'reference', isq: isq! });
      expect([stored.get('model.embed_tokens'), stored.get('lm_head')]).toEqual([finer, finer]);
      expect(report.layers.filter((l) => l.promoted).map((l) => l.module)).toEqual(['model.embed_tokens', 'lm_head']);
    }
  });

  it('falls back where rows do not divide into blocks, and says so', async () => {
    const s: Spec = { ...SMALL, inner: 96 };
    const odd: Spec = { ...SMALL, inner: 72 };
    const cases: readonly [string, string, string][] = [
      ...([
        ['Q2K', 'Q4_0', 'F32'],
        ['Q3K', 'Q4_0', 'F32'],
        ['Q4K', 'Q4_1', 'F32'],
        ['Q5K', 'Q5_0', 'F32'],
      ] as const),
      ...([
        ['Q6K', 'Q8_0', 'F32'],
        ['Q8K', 'Q8_1', 'F32'],
        ['IQ4_XS', 'IQ4_NL', 'F32'],
        ['IQ4_NL', 'IQ4_NL', 'F32'],
        ['Q4_0', 'Q4_0', 'F32'],
        ['AFQ4', 'F32', 'F32'],
      ] as const),
      ...([
        ['MXFP4', 'MXFP4', 'F32'],
        ['HQQ4', 'F32', 'F32'],
        ['F8E4M3', 'F8E4M3', 'F8E4M3'],
      ] as const),
    ].map(([a, b, c]) => [a, b, c]);
    const folders = [writeModel(s), writeModel(odd)];
    for (const [isq, ...wanted] of cases) {
      for (const [i, to] of wanted.entries()) {
        const { report, lines } = await loaded(folders[i]!, { device: 'reference', isq });
        const down = report.layers.find((l) => l.module.endsWith('down_proj'))!;
        expect([isq, down.stored]).toEqual([isq, to]);
        expect(down.fallback?.to).toBe(to === isq ? undefined : to);
        expect(lines.length).toBe(to === isq ? 0 : 1);
      }
    }
  });

  it('keeps a tied output matrix one with the embeddings', async () => {
    const s: Spec = { ...SMALL, tied: true };
    const tied = matricesOf(s);
    const { logits, stored, report } = await loaded(writeModel(s, tied), { device: 'reference', isq: 'Q4K' });
    expect(report.layers.map((l) => l.module)).not.toContain('lm_head');
    expect(relativeError(logits, await expected(s, tied, stored))).toBeLessThan(1e-5);
  });

  it('takes experts alone where asked, and their routers never', async () => {
    const s: Spec = { ...SMALL, experts: 3 };
    const sparse = matricesOf(s);
    const moe = writeModel(s, sparse);
    const only = await loaded(moe, { device: 'reference', isq: 'Q4K', mixtureQexpertsIsq: true });
    expect(only.report.layers.length).toBe(9);
    expect(only.report.layers.every((l) => l.module.includes('.experts.') && l.stored === 'Q4K')).toBe(true);
    expect(relativeError(only.logits, await expected(s, sparse, only.stored))).toBeLessThan(1e-5);
    const all = await loaded(moe, { device: 'reference', isq: 'Q4K' });
    expect(all.report.layers.length).toBe(9 + 4 + 2);
    expect([...all.stored.keys()].some((m) => m.endsWith('moe.gate'))).toBe(false);
    await expect(loadModel(folder, { isq: 'Q4K', mixtureQexpertsIsq: true })).rejects.toThrow(UnsupportedError);
  });

  it('quantizes what is quantized already, from the values it stands for', async () => {
    const gguf = new URL('../fixtures/models/gguf_llama_q8_0', import.meta.url).pathname;
    const { report, stored } = await loaded(gguf, { device: 'reference', isq: 'Q4_0' });
    expect(stored.get('model.layers.0.self_attn.q_proj')).toBe('Q4_0');
    expect(report.bytesAfter).toBeLessThan(report.bytesBefore);
  });

  it('reports progress', async () => {
    const seen: [string, number, number][] = [];
    const model = await loadModel(folder, {
      device: 'reference',
      isq: 'Q8_0',
      onProgress: ({ stage, done, total }) => seen.push([stage, done, total]),
    });
    await model.dispose();
    expect(seen.at(-1)).toEqual(['load', seen[0]![2], seen[0]![2]]);
    expect(seen.map(([, done]) => done)).toEqual(seen.map(([, done]) => done).sort((a, b) => a - b));
  });
});

describe('what cannot be quantized', () => {
  const folder = writeModel(SMALL);
  it.each<[string, LoadOptions, new (m: string) => Error, RegExp]>([
    ['unknown types', { isq: 'Q9K' }, ConfigError, /Q4K.*"Q9K"/],
    ['other numbers of bits', { isq: 7 }, ConfigError, /2, 3, 4, 5, 6, 8.*got 7/],
    ['names for autoIsq', { autoIsq: 'Q4K' as unknown as number }, ConfigError, /autoIsq/],
    ['both kinds of type', { isq: 4, autoIsq: 4 }, ConfigError, /both/],
    ['experts without a type', { mixtureQexpertsIsq: true }, ConfigError, /isq/],
    ['importance without a type', { imatrix: 'x.imatrix' }, ConfigError, /isq/],
    ['expansion at once', { isq: 4, dtype: 'f32' }, ConfigError, /dtype/],
    ['two topologies', { topology: {}, topologyFromPath: 'x' }, ConfigError, /both/],
    ['a topology that names nothing', { topology: { '7-9': { isq: 4 } } }, ConfigError, /found none/],
    ['devices elsewhere', { topology: { '0-1': { device: 'cuda[0]' } } }, UnsupportedError, /cuda/],
  ])('%s', async (_name, options, kind, message) => {
    const error = await loadModel(folder, { device: 'reference', ...options }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(kind);
    expect((error as Error).message).toMatch(message);
  });

  it('values that are not finite, by name and place', async () => {
    const matrices = matricesOf(SMALL);
    matrices.get('model.layers.0.mlp.up_proj.weight')!.data[5] = Number.NaN;
    const broken = writeModel(SMALL, matrices);
    for (const isq of ['Q4K', 'Q8_0', 'F8E4M3', 'HQQ8', 'AFQ4']) {
      await expect(loadModel(broken, { device: 'reference', isq })).rejects.toThrow(/mlp\.up_proj.*NaN/);
    }
  });

  it('models loaded as stored, later', async () => {
    const model = await loadModel(folder, { device: 'reference' });
    await expect(model.reIsqModel('Q4K')).rejects.toThrow(UnsupportedError);
    expect(() => model.quantReport()).toThrow(UnsupportedError);
    await model.dispose();
  });

  it('no type needs a format that does not exist', () => {
    expect(ISQ_TYPES.length).toBe(24);
    expect(quantFormat('Q4K').type.name).toBe('Q4_K');
  });
});
