/** What adapter files may say, and what is refused: configurations, shapes, names, damage. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compilePattern } from '../../src/core/lora/pattern.ts';
import * as api from '../../src/index.ts';
import { adapterFiles, adapterPath, distance, expectedOf, modelPath, rawLogits, withConfig } from './harness.ts';

let model: api.Model;
beforeAll(async () => {
  model = await api.loadModel(modelPath('llama'), { device: 'reference', dtype: 'f32', lora: true });
});
afterAll(() => model.dispose());

const plain = () => adapterFiles('llama', 'plain');
const attempt = (files: Record<string, Uint8Array>) => model.loadLoraAdapter('x', files);
const rejected = (code: string) => ({ name: 'LoraAdapterError', code });

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** The weights with their header changed. */
function withHeader(change: (header: Record<string, Entry>) => void): Record<string, Uint8Array> {
  const files = plain();
  const bytes = files['adapter_model.safetensors']!;
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, Entry>;
  delete header['__metadata__'];
  change(header);
  const text = new TextEncoder().encode(JSON.stringify(header));
  const out = new Uint8Array(8 + text.length + bytes.length - 8 - length);
  new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
  out.set(text, 8);
  out.set(bytes.subarray(8 + length), 8 + text.length);
  return { ...files, 'adapter_model.safetensors': out };
}

const Q = 'base_model.model.model.layers.0.self_attn.q_proj.lora_';
function renamed(from: string, to: string): Record<string, Uint8Array> {
  return withHeader((h) => {
    h[to] = h[from]!;
    delete h[from];
  });
}

describe('configurations', () => {
  it.each([
    ['DoRA', { use_dora: true }],
    ['biases', { bias: 'all' }],
    ['LoRA biases', { lora_bias: true }],
    ['saved modules', { modules_to_save: ['lm_head'] }],
    ['the embedding', { target_modules: ['q_proj', 'embed_tokens'] }],
    ['the head', { target_modules: ['lm_head'] }],
    ['the head as a parameter', { target_parameters: ['lm_head.weight'] }],
    ['replicated layers', { layer_replication: [[0, 2]] }],
    ['trained tokens', { trainable_token_indices: [1] }],
    ['activated LoRA', { alora_invocation_tokens: [1] }],
    ['QALoRA', { use_qalora: true }],
    ['pissa', { init_lora_weights: 'pissa_niter_4' }],
    ['olora', { init_lora_weights: 'olora' }],
    ['corda', { init_lora_weights: 'corda' }],
    ['loftq', { init_lora_weights: 'loftq' }],
    ['lora_ga', { init_lora_weights: 'lora_ga' }],
    ['other kinds', { peft_type: 'IA3' }],
    ['no rank', { r: 0 }],
    ['a broken rank', { r: 1.5 }],
    ['a broken alpha', { lora_alpha: 'x' }],
    ['no targets', { target_modules: null }],
    ['broken targets', { target_modules: [1] }],
    ['a broken pattern', { target_modules: '(' }],
    ['look-around', { target_modules: '(?=q_proj)' }],
    ['broken tables', { rank_pattern: { q_proj: -1 } }],
    ['broken layers', { layers_to_transform: ['x'] }],
  ])('refused: %s', async (_, changes) => {
    await expect(attempt(withConfig(plain(), changes))).rejects.toMatchObject(rejected('config'));
  });

  it.each([
    ['modules it does not name', { target_modules: ['q_proj'] }],
    ['modules it excludes', { exclude_modules: '.*q_proj' }],
    ['layers it does not name', { layers_to_transform: 1 }],
    ['other ranks', { r: 3 }],
    ['other ranks of some', { rank_pattern: { 'self_attn.q_proj': 5 } }],
  ])('refused with this file: %s', async (_, changes) => {
    await expect(attempt(withConfig(plain(), changes))).rejects.toMatchObject(rejected('format'));
  });

  it('all linear modules; a rank above the limit; text that is no JSON', async () => {
    const { ids, logits } = await expectedOf('llama');
    await model.loadLoraAdapter('all', withConfig(plain(), { target_modules: 'all-linear' }));
    expect(distance(await rawLogits(model, ids, 'all'), await logits('plain'))).toBeLessThan(1e-4);
    await model.unloadLoraAdapter('all');
    await expect(attempt(withConfig(plain(), { r: 257 }))).rejects.toMatchObject(rejected('rank_limit'));
    for (const text of ['', '[]', 'null', '{"r":', '\u0000']) {
      const config = new TextEncoder().encode(text);
      await expect(attempt({ ...plain(), 'adapter_config.json': config })).rejects.toMatchObject(rejected('config'));
    }
    const broken = { ...plain(), 'adapter_config.json': Uint8Array.of(0xff, 0xfe, 0xfd) };
    await expect(attempt(broken)).rejects.toMatchObject(rejected('config'));
  });
});

describe('weights', () => {
  it('are one file', async () => {
    const { 'adapter_model.safetensors': weights, 'adapter_config.json': config } = plain();
    await expect(attempt({ 'adapter_model.safetensors': weights! })).rejects.toMatchObject(rejected('io'));
    await expect(attempt({ 'adapter_config.json': config! })).rejects.toMatchObject(rejected('io'));
    for (const name of ['adapter_model.bin', 'adapter_model-00001-of-00002.safetensors']) {
      await expect(attempt({ 'adapter_config.json': config!, [name]: weights! })).rejects.toMatchObject(
        rejected('format'),
      );
    }
    const more = { ...plain(), 'adapter_model-00002-of-00002.safetensors': weights! };
    await expect(attempt(more)).rejects.toMatchObject(rejected('format'));
    await expect(model.loadLoraAdapter('x', '/no/such/folder')).rejects.toMatchObject(rejected('io'));
    await expect(
      model.loadLoraAdapter('x', `${adapterPath('llama', 'plain')}/adapter_config.json`),
    ).rejects.toMatchObject(rejected('io'));
  });

  it.each([
    ['half of a pair', withHeader.bind(null, (h) => void delete h[`${Q}A.weight`])],
    [
      'unknown modules',
      () => renamed(`${Q}A.weight`, 'base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight'),
    ],
    ['the embedding', () => renamed(`${Q}A.weight`, 'base_model.model.model.embed_tokens.lora_A.weight')],
    ['embeddings of their own', () => renamed(`${Q}A.weight`, 'base_model.model.model.embed_tokens.lora_embedding_A')],
    ['magnitudes', () => renamed(`${Q}A.weight`, `${Q}magnitude_vector`)],
    ['biases', () => renamed(`${Q}A.weight`, 'base_model.model.model.layers.0.self_attn.q_proj.bias')],
    ['turned matrices', () => withHeader((h) => void h[`${Q}A.weight`]!.shape.reverse())],
    ['no matrices', () => withHeader((h) => void (h[`${Q}A.weight`]!.shape = [256]))],
    ['whole numbers', () => withHeader((h) => void (h[`${Q}A.weight`]!.dtype = 'I16'))],
    ['wrong offsets', () => withHeader((h) => void (h[`${Q}A.weight`]!.data_offsets[1] += 2))],
  ] as const)('refused: %s', async (_, make) => {
    const before = model.memory().persistent;
    await expect(attempt(make())).rejects.toMatchObject(rejected('format'));
    expect(model.listLoraAdapters()).toEqual([]);
    expect(model.memory().persistent).toBe(before);
  });

  it('of another model', async () => {
    await expect(model.loadLoraAdapter('x', adapterPath('gpt2', 'plain'))).rejects.toMatchObject(rejected('format'));
    await expect(model.loadLoraAdapter('x', adapterPath('mixtral', 'fused'))).rejects.toMatchObject(rejected('format'));
  });

  it('cut or damaged anywhere: an error of ours, and nothing is kept', async () => {
    const whole = plain()['adapter_model.safetensors']!;
    const cut = fc.asyncProperty(fc.nat(whole.length - 1), async (length) => {
      const files = { ...plain(), 'adapter_model.safetensors': whole.slice(0, length) };
      await expect(attempt(files)).rejects.toBeInstanceOf(api.LoraAdapterError);
    });
    await fc.assert(cut, { numRuns: 40 });
    const damaged = fc.asyncProperty(fc.nat(3000), fc.nat(255), async (at, value) => {
      const bytes = whole.slice();
      bytes[at] = value;
      const error = await attempt({ ...plain(), 'adapter_model.safetensors': bytes }).catch((e: unknown) => e);
      if (error instanceof Error) expect(error).toBeInstanceOf(api.LoraAdapterError);
      else await model.unloadLoraAdapter('x');
    });
    await fc.assert(damaged, { numRuns: 40 });
    expect(model.loraAdapterStatus().residentGenerations).toBe(0);
  });
});

describe('patterns', () => {
  const atom = fc.constantFrom('a', 'b', '.', '[ab]', '[^a]', '\\.', '\\d', '\\w', '(a|b)', '(?:ab)', '(b|)', '^', '$');
  const piece = fc.tuple(atom, fc.constantFrom('', '*', '+', '?', '{2}', '{0,2}', '{1,}', '*?'));
  const pattern = fc
    .array(
      fc.array(
        piece.map(([a, q]) => (a === '^' || a === '$' ? a : a + q)),
        { maxLength: 5 },
      ),
      { maxLength: 3 },
    )
    .map((branches) => branches.map((b) => b.join('')).join('|'));

  it('match as regular expressions do', () => {
    fc.assert(
      fc.property(pattern, fc.string({ unit: fc.constantFrom('a', 'b', '.', '1'), maxLength: 6 }), (p, text) => {
        expect(compilePattern(p)(text)).toBe(new RegExp(`^(?:${p})$`).test(text));
      }),
      { numRuns: 2000 },
    );
  });

  it('take linear time, and no unbounded space', () => {
    expect(compilePattern('(a*)*(a|a)*(a+)+b')('a'.repeat(5000))).toBe(false);
    expect(() => compilePattern('((((a{99}){99}){99}){99}){99}')).toThrow(api.LoraAdapterError);
    expect(() => compilePattern('('.repeat(1000))).toThrow(api.LoraAdapterError);
    expect(() => compilePattern('a'.repeat(5000))).toThrow(api.LoraAdapterError);
    for (const bad of ['(', ')', '[a', 'a\\', '*', '(?=a)', '(?i)a', '\\b', 'a{3,1}']) {
      expect(() => compilePattern(bad), bad).toThrow(api.LoraAdapterError);
    }
  });
});
