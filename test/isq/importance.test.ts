import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { storageType } from '../../src/core/dtype.ts';
import { ConfigError, FormatError, UnsupportedError } from '../../src/core/errors.ts';
import { ggufValue, writeGguf } from '../../src/core/io/ggufWrite.ts';
import { writeCimatrix } from '../../src/entry-quant.ts';
import { type LoadOptions, loadModel, quantizeModel } from '../../src/index.ts';
import { dequantize, quantize } from '../../src/quant/rows.ts';
import {
  logitsOf,
  type Matrices,
  matricesOf,
  relativeError,
  SMALL,
  type Spec,
  temporaryFolder,
  writeModel,
} from './models.ts';

type Entries = ReadonlyMap<string, Float32Array>;

/** Importance of every matrix, by its name in the model; columns differ a lot. */
function importanceOf(matrices: Matrices, seed: number): Map<string, Float32Array> {
  const out = new Map<string, Float32Array>();
  let i = seed;
  for (const [name, { shape }] of matrices) {
    if (shape.length < 2 || /embed_tokens|moe\.gate/.test(name)) continue;
    i++;
    out.set(
      name,
      Float32Array.from({ length: shape.at(-1)! }, (_, k) => 10 ** (3 * Math.sin(i * 7.1 + k * 1.7))),
    );
  }
  return out;
}

const GGUF: readonly (readonly [RegExp, string])[] = [
  [/^model\.layers\.(\d+)\./, 'blk.$1.'],
  [/self_attn\.([qkv])_proj/, 'attn_$1'],
  [/self_attn\.o_proj/, 'attn_output'],
  [/mlp\.(gate|up|down)_proj/, 'ffn_$1'],
  [/^lm_head/, 'output'],
];
const ggufName = (name: string) => GGUF.reduce((n, [from, to]) => n.replace(from, to), name);

/** The older form: sums over `calls` calls. */
function dat(entries: Entries, calls = 4): Uint8Array {
  const parts: Uint8Array[] = [];
  const word = (n: number) => parts.push(new Uint8Array(Int32Array.of(n).buffer));
  word(entries.size);
  for (const [name, values] of entries) {
    word(name.length);
    parts.push(new TextEncoder().encode(name));
    word(calls);
    word(values.length);
    parts.push(new Uint8Array(values.map((v) => v * calls).buffer));
  }
  return Buffer.concat(parts);
}

async function gguf(entries: Entries, rows = 8): Promise<Uint8Array> {
  const tensor = (name: string, shape: readonly number[], values: Float32Array) => ({
    ...{ name, shape, type: storageType('F32'), rows: shape.length > 1 ? shape[0]! : 1 },
    readRows: async (_first: number, _n: number, to: Uint8Array) => to.set(new Uint8Array(values.buffer)),
  });
  const tensors = [...entries].flatMap(([name, values]) => [
    tensor(
      `${name}.in_sum2`,
      [1, values.length],
      values.map((v) => v * rows),
    ),
    tensor(`${name}.counts`, [1, 1], Float32Array.of(rows)),
  ]);
  const chunks: Uint8Array[] = [];
  const metadata = new Map([['general.type', ggufValue.string('imatrix')]]);
  await writeGguf(async (_at, bytes) => void chunks.push(bytes.slice()), metadata, tensors);
  return Buffer.concat(chunks);
}

const renamed = (entries: Entries, rename: (name: string) => string): Entries =>
  new Map([...entries].map(([name, values]) => [rename(name), values]));

async function run(folder: string, options: LoadOptions) {
  const warnings: string[] = [];
  const model = await loadModel(folder, {
    ...{ device: 'reference', pagedAttn: { cacheType: 'f32' } },
    ...options,
    logging: (level, line) => level === 'warn' && warnings.push(line),
  });
  const logits = await logitsOf(model);
  const report = model.quantReport();
  await model.dispose();
  return { logits, report, warnings };
}

/** The model whose weights are what quantizing with importance makes of them. */
async function expected(s: Spec, matrices: Matrices, entries: Entries, stored: ReadonlyMap<string, string>) {
  const changed: Matrices = new Map(matrices);
  for (const [name, { shape, data }] of matrices) {
    const type = stored.get(name.replace(/\.weight$/, ''));
    if (!type) continue;
    const columns = shape.at(-1)!;
    const importance = entries.get(name);
    const bytes = quantize(type, data, columns, importance ? { importance } : {});
    changed.set(name, { shape, data: dequantize(type, bytes, columns) });
  }
  const model = await loadModel(writeModel(s, changed), { device: 'reference', dtype: 'f32' });
  const logits = await logitsOf(model);
  await model.dispose();
  return logits;
}

describe('importance from files', () => {
  const matrices = matricesOf(SMALL);
  const folder = writeModel(SMALL, matrices);
  const entries = importanceOf(matrices, 0);
  const files: readonly [string, () => Promise<Uint8Array>][] = [
    ['i.imatrix', async () => dat(renamed(entries, ggufName))],
    ['i.dat', async () => dat(renamed(entries, ggufName), 1)],
    ['i.gguf', () => gguf(renamed(entries, ggufName))],
    ['i.cimatrix', async () => writeCimatrix(renamed(entries, (n) => n.replace(/\.weight$/, '')))],
  ];

  it.each(files)('weighs the columns of every matrix it names: %s', async (name, make) => {
    const path = join(temporaryFolder(), name);
    writeFileSync(path, await make());
    for (const isq of ['Q2K', 'Q4K']) {
      const { logits, report, warnings } = await run(folder, { isq, imatrix: path });
      const stored = new Map(report.layers.map((l) => [l.module, l.stored]));
      expect(relativeError(logits, await expected(SMALL, matrices, entries, stored))).toBeLessThan(1e-5);
      const { logits: plain } = await run(folder, { isq });
      expect(relativeError(logits, plain)).toBeGreaterThan(1e-3);
      expect(warnings).toEqual([expect.stringMatching(/1 weights have no importance/)]);
    }
  });

  it('lies in bytes as well, and says so when a type cannot use it', async () => {
    const imatrix = dat(renamed(entries, ggufName));
    const { logits, warnings } = await run(folder, { isq: 'Q8_0', imatrix });
    expect(warnings).toEqual([expect.stringMatching(/no effect/)]);
    expect(logits).toEqual((await run(folder, { isq: 'Q8_0' })).logits);
  });

  it('counts again when the model is quantized again', async () => {
    const imatrix = dat(renamed(entries, ggufName));
    const model = await loadModel(folder, {
      device: 'reference',
      pagedAttn: { cacheType: 'f32' },
      isq: 'Q8_0',
      imatrix,
    });
    await model.reIsqModel('Q3K');
    expect(await logitsOf(model)).toEqual((await run(folder, { isq: 'Q3K', imatrix })).logits);
    await model.dispose();
  });

  it('goes into GGUF files', async () => {
    const out = join(temporaryFolder(), 'out.gguf');
    const imatrix = dat(renamed(entries, ggufName));
    await quantizeModel(folder, out, { isq: 'Q3K', imatrix });
    const { logits } = await run(folder, { isq: 'Q3K', imatrix });
    const model = await loadModel(out, { device: 'reference', pagedAttn: { cacheType: 'f32' } });
    expect(relativeError(await logitsOf(model), logits)).toBeLessThan(1e-5);
    await model.dispose();
  });

  it('is that of each expert, stacked as files have it', async () => {
    const s: Spec = { ...SMALL, experts: 3 };
    const sparse = matricesOf(s);
    const own = importanceOf(sparse, 3);
    const stacked = new Map<string, Float32Array>();
    for (const [name, values] of own) {
      const [, layer, , part = ''] = /layers\.(\d+)\..*experts\.(\d+)\.(w\d)/.exec(name) ?? [];
      const key =
        layer === undefined
          ? ggufName(name)
          : `blk.${layer}.ffn_${{ w1: 'gate', w2: 'down', w3: 'up' }[part]}_exps.weight`;
      stacked.set(key, Float32Array.of(...(stacked.get(key) ?? []), ...values));
    }
    const { logits, report } = await run(writeModel(s, sparse), { isq: 'Q3K', imatrix: dat(stacked) });
    const stored = new Map(report.layers.map((l) => [l.module, l.stored]));
    expect(relativeError(logits, await expected(s, sparse, own, stored))).toBeLessThan(1e-5);
  });

  const wide = (times: number) =>
    dat(new Map([...entries].map(([name, v]) => [ggufName(name), new Float32Array(times * v.length).fill(1)])));
  const damaged = new Map([...entries].map(([name, values]) => [ggufName(name), values.map(() => Number.NaN)]));
  it.each<[string, Uint8Array, new (m: string) => Error, RegExp]>([
    ['narrower rows', wide(1 / 2), ConfigError, /another model/],
    ['wider rows', wide(2), ConfigError, /another model/],
    ['other names', dat(new Map([['enc.0.weight', Float32Array.of(1, 2)]])), ConfigError, /found none of its weights/],
    ['values that are none', dat(damaged), FormatError, /NaN/],
    ['half of the bytes', dat(renamed(entries, ggufName)).slice(0, 5000), FormatError, /./],
  ])('of another model or damaged is refused: %s', async (_name, imatrix, kind, message) => {
    const error = await loadModel(folder, { device: 'reference', isq: 'Q4K', imatrix }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(kind);
    expect((error as Error).message).toMatch(message);
  });

  it('of architectures without names in GGUF files is refused by name', async () => {
    const lite = new URL('../fixtures/models/glm4_moe_lite', import.meta.url).pathname;
    const imatrix = dat(new Map([['blk.0.attn_q.weight', Float32Array.of(1)]]));
    await expect(loadModel(lite, { device: 'reference', isq: 'Q4K', imatrix })).rejects.toThrow(UnsupportedError);
  });
});
