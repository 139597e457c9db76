/** Models that are damaged, incomplete, contradictory or made to hurt: each ends soon, with an error that helps. */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Outcome } from './children/hostile.ts';
import { tinyBytes } from './tiny.ts';

const pathOf = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const root = mkdtempSync(join(tmpdir(), 'hostile-'));
afterAll(() => rmSync(root, { recursive: true }));
beforeAll(async () => {
  await build({
    entryPoints: [pathOf('children/hostile.ts')],
    outfile: join(root, 'hostile.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
  });
});

const SECONDS = 1;
const BYTES = 64e6;
const run = promisify(execFile);

/** Outcomes by path. No case takes long or much memory, and none ends without a typed error that says something. */
async function outcomesOf(
  paths: readonly string[],
  good: string,
  device: 'cpu' | 'reference' = 'cpu',
): Promise<Map<string, Outcome>> {
  const list = join(root, `list-${paths.length}-${Math.random()}.json`);
  writeFileSync(list, JSON.stringify(paths));
  const { stdout } = await run(process.execPath, ['--expose-gc', join(root, 'hostile.mjs'), list, good, device], {
    maxBuffer: 64e6,
  });
  const outcomes = JSON.parse(stdout) as readonly Outcome[];
  expect(outcomes.length).toBe(paths.length);
  for (const o of outcomes) {
    const what = `${o.path}: ${o.kind}: ${o.message}`;
    expect(o.kind, what).not.toBe('untyped');
    expect(o.seconds, what).toBeLessThan(SECONDS);
    expect(o.bytes, what).toBeLessThan(BYTES);
    if (o.kind === 'none') continue;
    expect(o.message.length, what).toBeGreaterThan(20);
    expect(o.message.length, what).toBeLessThan(1500);
  }
  return new Map(outcomes.map((o) => [o.path, o]));
}

let count = 0;
/** A folder with some files. */
function folderOf(files: Readonly<Record<string, Uint8Array | string>>): string {
  const folder = join(root, `model-${count++}`);
  mkdirSync(folder);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  return folder;
}

const fixture = (name: string) => pathOf(`../fixtures/models/${name}`);
const goodGguf = fixture('gguf_llama_q8_0/model.gguf');

describe('GGUF', () => {
  it('cut off at 20 places', async () => {
    const { length } = tinyBytes;
    const cuts = Array.from({ length: 20 }, (_, i) => Math.floor(((i + 0.5) / 20) ** 3 * length));
    const paths = [...cuts, length - 1].map((at) =>
      join(folderOf({ 'model.gguf': tinyBytes.slice(0, at) }), 'model.gguf'),
    );
    const outcomes = await outcomesOf(paths, goodGguf);
    for (const o of outcomes.values()) expect(['FormatError', 'ModelLoadError', 'WeightError']).toContain(o.kind);
  });

  /** The file with one text replaced by another of the same length. */
  function replaced(from: string, to: string): string {
    expect(from.length).toBe(to.length);
    const bytes = Buffer.from(tinyBytes);
    const at = bytes.indexOf(from);
    expect(at).toBeGreaterThan(0);
    bytes.write(to, at, 'latin1');
    return join(folderOf({ 'model.gguf': bytes }), 'model.gguf');
  }

  /** The file with the bytes behind a text changed. */
  function patched(text: string, change: (view: DataView) => void): string {
    const bytes = tinyBytes.slice();
    const at = Buffer.from(bytes).indexOf(text) + text.length;
    expect(at).toBeGreaterThan(text.length);
    change(new DataView(bytes.buffer, at));
    return join(folderOf({ 'model.gguf': bytes }), 'model.gguf');
  }

  it('with tensors that are missing, or of another shape or type', async () => {
    const missing = replaced('blk.1.attn_q.weight', 'blk.1.attn_x.weight');
    const noTable = replaced('token_embd.weight', 'token_embx.weight');
    // Behind a name: number of dimensions (u32), dimensions (u64), type (u32), offset (u64).
    const turned = patched('blk.0.ffn_down.weight', (v) => {
      v.setBigUint64(4, 64n, true);
      v.setBigUint64(12, 96n, true);
    });
    const longer = patched('blk.0.ffn_gate.weight', (v) => v.setBigUint64(12, 128n, true));
    const huge = patched('blk.0.ffn_gate.weight', (v) => v.setBigUint64(12, 2n ** 60n, true));
    const otherType = patched('blk.0.attn_v.weight', (v) => v.setUint32(20, 2, true));
    const integers = patched('blk.0.attn_norm.weight', (v) => v.setUint32(12, 26, true));
    const unknown = patched('blk.0.attn_v.weight', (v) => v.setUint32(20, 777, true));
    const outside = patched('blk.0.attn_v.weight', (v) => v.setBigUint64(24, 2n ** 40n, true));
    const outcomes = await outcomesOf(
      [missing, noTable, turned, longer, huge, otherType, integers, unknown, outside],
      goodGguf,
    );
    const at = (path: string) => `${outcomes.get(path)!.kind}: ${outcomes.get(path)!.message}`;
    expect(at(missing)).toMatch(/^WeightError: .*layers\.1\.self_attn\.q_proj\.weight/);
    expect(at(noTable)).toMatch(/^FormatError: token_embd\.weight/);
    expect(at(turned)).toMatch(/^WeightError: .*down_proj.*expected shape|^FormatError: .*ffn_down/);
    expect(at(longer)).toMatch(/Error: .*(gate_proj|ffn_gate)/);
    expect(at(huge)).toMatch(/^FormatError: .*ffn_gate/);
    expect(at(otherType)).not.toMatch(/^none/);
    expect(at(integers)).toMatch(/^(WeightError|UnsupportedError|FormatError): /);
    expect(at(unknown)).toMatch(/^UnsupportedError: .*777/);
    expect(at(outside)).toMatch(/^FormatError: .*attn_v/);
  });

  it('with counts and lengths that lie, and metadata that contradicts the weights', async () => {
    const number = (key: string, value: number) => patched(key, (v) => v.setUint32(4, value, true));
    const head = (at: number, value: bigint) => {
      const bytes = tinyBytes.slice();
      new DataView(bytes.buffer).setBigUint64(at, value, true);
      return join(folderOf({ 'model.gguf': bytes }), 'model.gguf');
    };
    const sizes = [
      'block_count',
      'embedding_length',
      'feed_forward_length',
      'attention.head_count',
      'attention.head_count_kv',
    ];
    const keys = [
      ...sizes,
      'context_length',
      'attention.key_length',
      'attention.value_length',
      'rope.dimension_count',
      'vocab_size',
    ];
    const cases: string[] = [];
    for (const key of keys) {
      for (const value of [0, 1, 7, 65536, 2 ** 31 - 1, 2 ** 32 - 1]) cases.push(number(`llama.${key}`, value));
    }
    for (const value of [0n, 1n, 2n ** 31n, 2n ** 60n, 2n ** 64n - 1n]) cases.push(head(8, value), head(16, value));
    for (const value of [2n ** 31n, 2n ** 60n, 2n ** 64n - 1n]) {
      cases.push(patched('tokenizer.ggml.tokens', (v) => v.setBigUint64(8, value, true)));
      cases.push(patched('general.name', (v) => v.setBigUint64(4, value, true)));
    }
    const unknown = patched('general.architecture', (v) => v.setUint32(12, 0x616d616c, true));
    cases.push(unknown, replaced('general.architecture', 'general.architectura'));
    for (const id of ['bos', 'eos', 'padding']) cases.push(number(`tokenizer.ggml.${id}_token_id`, 2 ** 31));
    const outcomes = await outcomesOf(cases, goodGguf);
    const failed = [...outcomes.values()].filter((o) => o.kind !== 'none');
    expect(failed.length).toBeGreaterThan(50);
    expect(outcomes.get(unknown)!.message).toMatch(/lama|architecture/);
  });
});

describe('safetensors', () => {
  const folder = fixture('llama');
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;
  const weights = readFileSync(join(folder, 'model.safetensors'));
  const headerLength = Number(weights.readBigUInt64LE(0));
  type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  const header = JSON.parse(weights.subarray(8, 8 + headerLength).toString()) as Header;
  const data = weights.subarray(8 + headerLength);

  function withHeader(change: (h: Header) => void): Uint8Array {
    const copy = structuredClone(header);
    change(copy);
    const json = Buffer.from(JSON.stringify(copy));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    return Buffer.concat([length, json, data]);
  }
  const broken = (change: (h: Header) => void) =>
    folderOf({ 'config.json': JSON.stringify(config), 'model.safetensors': withHeader(change) });
  const configured = (change: Record<string, unknown>) =>
    folderOf({ 'config.json': JSON.stringify({ ...config, ...change }), 'model.safetensors': weights });

  it('with tensors that are missing, or of another shape or type', async () => {
    const name = 'model.layers.1.self_attn.k_proj.weight';
    const missing = broken((h) => {
      h[name.replace('k_proj', 'key_proj')] = h[name]!;
      delete h[name];
    });
    const turned = broken((h) => h[name]!.shape.reverse());
    const flat = broken((h) => (h[name]!.shape = [h[name]!.shape[0]! * h[name]!.shape[1]!]));
    const integers = broken((h) => (h[name]!.dtype = 'I16'));
    const wider = broken((h) => (h[name]!.dtype = 'F32'));
    const unknown = broken((h) => (h[name]!.dtype = 'F2'));
    const outside = broken((h) => (h[name]!.data_offsets = [2 ** 40, 2 ** 40 + 4096]));
    const negative = broken((h) => (h[name]!.shape = [-32, -64]));
    const overlapping = broken(
      (h) => (h[name]!.data_offsets = h['model.layers.0.self_attn.k_proj.weight']!.data_offsets),
    );
    const cut = folderOf({ 'config.json': JSON.stringify(config), 'model.safetensors': weights.subarray(0, 100_000) });
    const empty = folderOf({ 'config.json': JSON.stringify(config), 'model.safetensors': '' });
    const text = folderOf({ 'config.json': JSON.stringify(config), 'model.safetensors': '<html>not found</html>' });
    const endless = Buffer.from(weights);
    endless.writeBigUInt64LE(2n ** 60n);
    const long = folderOf({ 'config.json': JSON.stringify(config), 'model.safetensors': endless });
    const outcomes = await outcomesOf(
      [missing, turned, flat, integers, wider, unknown, outside, negative, overlapping, cut, empty, text, long],
      folder,
    );
    const at = (path: string) => `${outcomes.get(path)!.kind}: ${outcomes.get(path)!.message}`;
    expect(at(missing)).toMatch(/^WeightError: .*k_proj\.weight.*nearest/);
    expect(at(turned)).toMatch(/^WeightError: .*k_proj\.weight.*expected shape \[32,64\], got \[64,32\]/);
    expect(at(flat)).toMatch(/^WeightError: .*expected shape/);
    for (const path of [integers, wider, unknown, outside, negative, cut, empty, text, long]) {
      expect(at(path)).toMatch(/^(FormatError|WeightError|UnsupportedError|ModelLoadError): /);
    }
  });

  it('with configurations that contradict the weights, or make no sense', async () => {
    const values = [
      undefined,
      null,
      0,
      -1,
      1.5,
      3,
      65536,
      2 ** 31,
      2 ** 53,
      1e308,
      'x',
      '',
      true,
      [],
      [1],
      {},
      'x'.repeat(1e5),
    ];
    const paths: string[] = [];
    const keys = Object.keys(config).filter((key) => key !== 'architectures');
    for (const key of keys) for (const value of values) paths.push(configured({ [key]: value }));
    const outcomes = await outcomesOf(paths, folder, 'reference');
    const failed = [...outcomes.values()].filter((o) => o.kind !== 'none');
    expect(failed.length).toBeGreaterThan(paths.length / 3);
    for (const o of failed) {
      expect([
        'ConfigError',
        'WeightError',
        'UnsupportedError',
        'ShapeError',
        'FormatError',
        'ModelLoadError',
      ]).toContain(o.kind);
    }
  });

  it.each([
    ['phi3_longrope', 'reference'],
    ['gemma3_text', 'reference'],
    ['qwen3_moe', 'reference'],
    ['llama_yarn', 'cpu'],
  ] as const)('with every number of its configuration pushed to an end: %s, %s', async (name, device) => {
    const from = fixture(name);
    const own = JSON.parse(readFileSync(join(from, 'config.json'), 'utf8')) as Record<string, unknown>;
    const bytes = readFileSync(join(from, 'model.safetensors'));
    const paths: string[] = [];
    const push = (holder: Record<string, unknown> | unknown[], wrap: () => unknown) => {
      for (const [key, value] of Object.entries(holder)) {
        const target = holder as Record<string, unknown>;
        if (typeof value === 'object' && value !== null) push(value as Record<string, unknown>, wrap);
        if (typeof value !== 'number') continue;
        for (const other of [0, -1, 2, 2 ** 31, 2 ** 53, 1e300]) {
          target[key] = other;
          paths.push(folderOf({ 'config.json': JSON.stringify(wrap()), 'model.safetensors': bytes }));
        }
        target[key] = value;
      }
    };
    push(own, () => own);
    const outcomes = await outcomesOf(paths, from, device);
    expect([...outcomes.values()].filter((o) => o.kind !== 'none').length).toBeGreaterThan(20);
  });

  it('of architectures nobody knows, and folders without what they need', async () => {
    const unknown = configured({ architectures: ['LlamasForCausalLM'], model_type: 'llamas' });
    const none = configured({ architectures: undefined, model_type: undefined });
    const noConfig = folderOf({ 'model.safetensors': weights });
    const noWeights = folderOf({ 'config.json': JSON.stringify(config) });
    const nothing = folderOf({});
    const halfJson = folderOf({ 'config.json': '{"architectures": [', 'model.safetensors': weights });
    const deep = folderOf({ 'config.json': '['.repeat(1e5), 'model.safetensors': weights });
    const list = folderOf({ 'config.json': '[1]', 'model.safetensors': weights });
    const badTokenizer = folderOf({
      'config.json': JSON.stringify(config),
      'model.safetensors': weights,
      'tokenizer.json': '{"model": {"type": "BPE", "vocab": {"a": 1e15}, "merges": [["a"]]}}',
    });
    const cases = [unknown, none, noConfig, noWeights, nothing, halfJson, deep, list, badTokenizer];
    const outcomes = await outcomesOf(cases, folder);
    const at = (path: string) => `${outcomes.get(path)!.kind}: ${outcomes.get(path)!.message}`;
    expect(at(unknown)).toMatch(/^UnsupportedError: .*LlamasForCausalLM.*LlamaForCausalLM/);
    expect(at(noConfig)).toMatch(/config\.json/);
    for (const path of cases) expect(at(path)).not.toMatch(/^none/);
  });
});
