import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import type { Backend } from '../../src/core/backend.ts';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { type TensorData, writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import { safetensorsSource } from '../../src/core/io/weightSource.ts';
import { readValues, type WeightSource, Weights } from '../../src/core/weights.ts';
import * as api from '../../src/index.ts';
import { quantizedSource } from '../../src/quant/checkpoint/index.ts';
import { dequantizeInto } from '../../src/quant/index.ts';
import { furthest } from '../models/harness.ts';
import { KINDS, type Kind } from './checkpointKinds.ts';
import { bits, fixture } from './fixture.ts';

const codec = { dequantizeInto };
type Tensors = Record<string, TensorData>;

async function opened(tensors: Tensors, config: unknown): Promise<WeightSource> {
  return quantizedSource(safetensorsSource(await readSafetensors(writeSafetensors(tensors))), config);
}

const valuesOf = (source: WeightSource, name: string) => readValues(source.get(name)!, codec);

function transposed(x: Float32Array, rows: number, columns: number): Float32Array {
  return x.map((_, i) => x[(i % rows) * columns + Math.floor(i / rows)]!);
}

describe('matrices of the reference tools', () => {
  const gptq = fixture('gptq_awq.safetensors');
  const keys = gptq.names.filter((n) => n.endsWith('.qweight')).map((n) => n.slice(0, -'.qweight'.length));

  it.each(keys)('%s', async (key) => {
    const tensors: Tensors = {};
    for (const part of ['qweight', 'qzeros', 'scales', 'g_idx']) {
      if (!gptq.has(`${key}.${part}`)) continue;
      const type = part === 'scales' ? 'F16' : 'I32';
      tensors[`m.${part}`] = { type, shape: gptq.shape(`${key}.${part}`), data: gptq.bytes(`${key}.${part}`) };
    }
    const method = key.startsWith('awq') ? { quant_method: 'awq' } : { quant_method: 'gptq' };
    const format = key.startsWith('gptq_v2') ? { checkpoint_format: 'gptq_v2' } : {};
    const group = key.includes('g128') ? 128 : 32;
    const source = await opened(tensors, { quantization_config: { ...method, ...format, group_size: group } });
    expect([...source.names()]).toEqual(['m.weight']);
    expect(source.get('m.weight')!.shape).toEqual([64, 128]);
    const expected = transposed(gptq.floats(`${key}.dequant_in_out`), 128, 64);
    expect(bits(await valuesOf(source, 'm.weight'))).toEqual(bits(expected));
    // Rows in any order.
    const t = source.get('m.weight')!;
    const rows = new Uint8Array(3 * t.type.blockBytes);
    const some = new Float32Array(3 * 128);
    await t.readRows(61, 3, rows);
    await t.readRows(40, 3, rows);
    dequantizeInto(t.type, rows, 0, some, 0, some.length);
    expect(bits(some)).toEqual(bits(expected.slice(40 * 128, 43 * 128)));
  });

  const afq = fixture('afq.safetensors');
  it.each([2, 3, 4, 6, 8].flatMap((b) => [32, 64, 128].map((g) => [b, g] as const)))(
    'MLX, %i bits, groups of %i',
    async (b, g) => {
      const at = `mlx.b${b}_g${g}`;
      const tensor = (name: string, type: 'U32' | 'F32'): TensorData => ({
        ...{ type, shape: afq.shape(`${at}.${name}`), data: afq.bytes(`${at}.${name}`) },
      });
      const tensors = {
        'm.weight': tensor('words', 'U32'),
        'm.scales': tensor('scales', 'F32'),
        'm.biases': tensor('biases', 'F32'),
      };
      const source = await opened(tensors, { quantization: { bits: 5, group_size: 1, m: { bits: b, group_size: g } } });
      const expected = afq.floats(`${at}.dequant`);
      (await valuesOf(source, 'm.weight')).forEach((v, i) => {
        expect(Math.abs(v - expected[i]!)).toBeLessThanOrEqual(2 ** -24);
      });
    },
  );

  const mx = fixture('mxfp4.safetensors');
  it.each(['mxfp4', 'mxfp8', 'nvfp4'])('MLX, %s', async (mode) => {
    const group = mode === 'nvfp4' ? 16 : 32;
    const tensors: Tensors = {
      'm.weight': { type: 'U32', shape: mx.shape(`mlx_${mode}.words`), data: mx.bytes(`mlx_${mode}.words`) },
      'm.scales': { type: 'U8', shape: mx.shape(`mlx_${mode}.scales`), data: mx.bytes(`mlx_${mode}.scales`) },
    };
    const source = await opened(tensors, { quantization: { mode, bits: mode === 'mxfp8' ? 8 : 4, group_size: group } });
    expect(bits(await valuesOf(source, 'm.weight'))).toEqual(bits(mx.floats(`mlx_${mode}.dequant`)));
  });

  it('FP8 in blocks that do not divide', async () => {
    const fp8 = fixture('fp8_scaled.safetensors');
    const tensors: Tensors = {
      'm.weight': { type: 'F8_E4M3', shape: [200, 300], data: fp8.bytes('blockwise.weight') },
      'm.weight_scale_inv': { type: 'F32', shape: [2, 3], data: fp8.bytes('blockwise.weight_scale_inv') },
    };
    const source = await opened(tensors, {
      quantization_config: { quant_method: 'fp8', weight_block_size: [128, 128] },
    });
    expect(bits(await valuesOf(source, 'm.weight'))).toEqual(bits(fp8.floats('blockwise.dequant')));
  });

  it('HQQ across rows', async () => {
    const hqq = fixture('hqq_bnb.safetensors');
    for (const b of [8, 4, 2, 1]) {
      const tensors: Tensors = {
        'm.W_q': { type: 'U8', shape: hqq.shape(`hqq.b${b}.packed`), data: hqq.bytes(`hqq.b${b}.packed`) },
        'm.scale': { type: 'F32', shape: [1, 64], data: hqq.bytes(`hqq.b${b}.scales`) },
        'm.zero': { type: 'F32', shape: [1, 64], data: hqq.bytes(`hqq.b${b}.zeros`) },
        'm.shape': { type: 'I64', shape: [2], data: BigInt64Array.of(32n, 128n) },
      };
      const params = { nbits: b, group_size: 64, axis: 0 };
      const source = await opened(tensors, {
        quantization_config: { quant_method: 'hqq', quant_config: { weight_quant_params: params } },
      });
      expect(bits(await valuesOf(source, 'm.weight'))).toEqual(bits(hqq.floats(`hqq.b${b}.dequant`)));
    }
  });
});

const live: Backend[] = [];
const models: api.Model[] = [];
const folder = mkdtempSync(join(tmpdir(), 'quantized-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(async () => {
  for (const m of models.splice(0)) await m.dispose();
  for (const b of live.splice(0)) await b.dispose();
});

const MODELS = new URL('../fixtures/models/', import.meta.url);
const PROMPT = [1, 17, 200, 45, 9, 88, 131, 4, 250, 33, 7];

/** A small model with its projections packed in some way, and with what they then stand for. */
async function twoFolders(
  kind: Kind,
  model = 'llama',
): Promise<{ packed: string; plain: string; source: WeightSource; changed: string[] }> {
  const from = new URL(`${model}/`, MODELS);
  const config = JSON.parse(readFileSync(new URL('config.json', from), 'utf8')) as Record<string, unknown>;
  const checkpoint = await readSafetensors(readFileSync(new URL('model.safetensors', from)));
  const stored = safetensorsSource(checkpoint);
  const [packed, plain]: [Tensors, Tensors] = [{}, {}];
  const changed: string[] = [];
  for (const tensor of stored.names()) {
    const shape = [...stored.get(tensor)!.shape];
    const x = await valuesOf(stored, tensor);
    const made =
      /_proj(_with_mqa)?\.weight$/.test(tensor) &&
      kind.pack(tensor.slice(0, -'.weight'.length), x, shape[0]!, shape[1]!);
    plain[tensor] = { type: 'F32', shape, data: made ? made.values : x };
    if (made) {
      Object.assign(packed, made.tensors);
      changed.push(tensor);
    } else packed[tensor] = plain[tensor];
  }
  const write = (which: string, tensors: Tensors, config: object) => {
    const at = mkdtempSync(join(folder, `${which}-`));
    writeFileSync(join(at, 'model.safetensors'), writeSafetensors(tensors));
    writeFileSync(join(at, 'config.json'), JSON.stringify(config));
    return at;
  };
  return {
    packed: write('packed', packed, { ...config, ...kind.config }),
    plain: write('plain', plain, config),
    source: await opened(packed, kind.config),
    changed,
  };
}

async function logits(path: string, options: api.LoadOptions): Promise<Float32Array> {
  const model = await api.loadModel(path, options);
  models.push(model);
  const { logitsChunks } = await model.sendRawTokens(PROMPT);
  return Float32Array.from((await Promise.all(logitsChunks.map((t) => t.toFloat32Array()))).flatMap((r) => [...r]));
}

/** Float rounding, and that of activations to 16 bits; the numbers of NF4 are rounded to 12. */
const FLOATS = 2e-4;
const onCpu = ({ label }: Kind) => (label === 'NF4' ? 2e-2 : 2e-3);

describe.each(Object.entries(KINDS))('a model packed as %s', (_, kind) => {
  it('gives the logits of the numbers that its codes stand for', async () => {
    const { packed, plain, source, changed } = await twoFolders(kind);
    expect(changed.length).toBeGreaterThan(11);
    const expected = await logits(plain, { device: 'reference' });
    const exact = { pagedAttn: { cacheType: 'f32' } } as const;
    expect(furthest(await logits(packed, { device: 'reference', ...exact }), expected)).toBeLessThan(FLOATS);
    expect(furthest(await logits(packed, { device: 'cpu', threads: 1, dtype: 'f32' }), expected)).toBeLessThan(FLOATS);
    const found = await logits(packed, { device: 'cpu', threads: 1, ...exact });
    expect(furthest(found, expected)).toBeLessThan(onCpu(kind));
    for (const m of models.splice(0)) await m.dispose();

    // Kept as codes.
    const backend = await createCpuBackend({ inline: true });
    live.push(backend);
    const w = Weights.open({ backend, source, codec });
    const weights = changed.map((n) => w.matrix(n));
    await w.load();
    for (const weight of weights) {
      const [out, columns] = weight.shape;
      expect(weight.data.formats).toEqual([kind.label]);
      expect(weight.data.bytes / (out * columns)).toBeLessThan(kind.bytes);
    }
    w.dispose();
    expect(w.unused().filter((n) => /_proj/.test(n) && !n.endsWith('.weight'))).toEqual([]);
  });
});

describe.each([
  ['deepseek_v3', 'FP8 in large blocks'],
  ['deepseek_v3', 'FP8 in blocks'],
  ['qwen3_moe', 'GPTQ of 4 bits, groups of 16, by importance'],
  ['qwen3_moe', 'NF4'],
  ['phi3', 'AWQ'],
  ['gemma3_text', 'MLX of 4 bits'],
])('%s packed as %s', (model, name) => {
  it('gives the logits of the numbers that its codes stand for', async () => {
    const { packed, plain, changed } = await twoFolders(KINDS[name]!, model);
    expect(changed.length).toBeGreaterThan(3);
    const expected = await logits(plain, { device: 'reference' });
    const exact = { pagedAttn: { cacheType: 'f32' } } as const;
    expect(furthest(await logits(packed, { device: 'reference', ...exact }), expected)).toBeLessThan(FLOATS);
    const found = await logits(packed, { device: 'cpu', threads: 1, ...exact });
    expect(furthest(found, expected)).toBeLessThan(onCpu(KINDS[name]!));
  });
});

it('MXFP4 experts are left to the model', async () => {
  const model = await api.loadModel(fileURLToPath(new URL('gpt_oss_mxfp4/', MODELS)), { device: 'cpu', threads: 1 });
  models.push(model);
  const { logitsChunks } = await model.sendRawTokens(PROMPT);
  expect((await logitsChunks[0]!.toFloat32Array()).every(Number.isFinite)).toBe(true);
});

describe('checkpoints that cannot be read', () => {
  const W = Float32Array.from({ length: 64 * 64 }, (_, i) => Math.sin(i) * 0.1);

  it.each(Object.entries(KINDS))('%s: a missing tensor, or one of another size', async (_, kind) => {
    const { tensors } = kind.pack('m', W, 64, 64)!;
    for (const name of Object.keys(tensors)) {
      const { type, shape, data } = tensors[name]!;
      const half = { type, shape: [shape[0]! / 2, ...shape.slice(1)], data: new Uint8Array(data.byteLength / 2) };
      const others = Object.fromEntries(Object.entries(tensors).filter(([n]) => n !== name));
      for (const changed of [
        others,
        ...(shape.length > 0 && shape[0]! % 2 === 0 ? [{ ...others, [name]: half }] : []),
      ]) {
        const error: unknown = await opened(changed, kind.config)
          .then(async (source) => {
            const t = source.get('m.weight');
            if (t?.type.name !== 'GROUPED') return undefined;
            // Some tensors may be missing, and rows may be halved together with nothing that tells.
            const values = await readValues(t, codec);
            return values.every(Number.isFinite) ? undefined : new Error('not finite');
          })
          .catch((e: unknown) => e);
        if (error !== undefined)
          expect((error as Error).name, String(error)).toMatch(/^(FormatError|UnsupportedError)$/);
      }
    }
  });

  it.each([
    [{ quant_method: 'aqlm' }, api.UnsupportedError, 'expected one of gptq, awq,'],
    [{ quant_method: '__proto__' }, api.UnsupportedError, 'got "__proto__"'],
    [{ quant_method: 4 }, api.ConfigError, 'expected a string, got 4'],
    [{ some: 1 }, api.UnsupportedError, 'expected a quant_method'],
    ['gptq', api.ConfigError, 'expected an object'],
    [{ quant_method: 'gptq', checkpoint_format: 'marlin' }, api.UnsupportedError, 'expected gptq or gptq_v2'],
    [{ quant_method: 'awq', version: 'gemv' }, api.UnsupportedError, 'expected AWQ version gemm'],
    [{ quant_method: 'fp8', fmt: 'e5m2' }, api.UnsupportedError, 'expected e4m3'],
    [{ quant_method: 'fp8', weight_block_size: [0, 1] }, api.FormatError, 'expected two numbers'],
  ])('settings %j', async (settings, kind, message) => {
    const tensors: Tensors = { a: { type: 'F32', shape: [1], data: new Float32Array(1) } };
    const opening = opened(tensors, { quantization_config: settings });
    await expect(opening).rejects.toThrow(kind);
    await expect(opening).rejects.toThrow(message);
  });

  it('scales and codes that are no numbers', async () => {
    const fp8 = KINDS['FP8 by rows']!;
    const { tensors } = fp8.pack('m', W, 64, 64)!;
    new Uint8Array(tensors['m.weight']!.data.buffer)[70] = 0x7f;
    const source = await opened(tensors, fp8.config);
    await expect(valuesOf(source, 'm.weight')).rejects.toThrow('got NaN in row 1, column 6');
    const gptq = KINDS['GPTQ of 4 bits, groups of 32']!.pack('m', W, 64, 64)!.tensors;
    new Uint16Array(gptq['m.scales']!.data.buffer)[3] = 0x7c00;
    const damaged = await opened(gptq, KINDS['GPTQ of 4 bits, groups of 32']!.config);
    await expect(valuesOf(damaged, 'm.weight')).rejects.toThrow('expected finite scales');
  });

  it('groups and books that do not exist', async () => {
    const kind = KINDS['GPTQ of 4 bits, groups of 16, by importance']!;
    const { tensors } = kind.pack('m', W, 64, 64)!;
    new Int32Array(tensors['m.g_idx']!.data.buffer)[5] = 4;
    await expect(opened(tensors, kind.config)).rejects.toThrow('expected groups below 4, got 4');
    const nf4 = KINDS['NF4']!.pack('m', W, 64, 64)!.tensors;
    const book = { ...nf4['m.weight.quant_map']!, data: new Float32Array(16) };
    await expect(opened({ ...nf4, 'm.weight.quant_map': book }, KINDS['NF4']!.config)).rejects.toThrow(
      'the numbers of nf4',
    );
  });
});
