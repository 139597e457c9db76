import * as fs from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError, ModelLoadError, UnsupportedError } from '../../src/core/errors.ts';
import { memoryFolder } from '../../src/core/io/folder.ts';
import type { ResolveOptions } from '../../src/core/io/resolve.ts';
import { resolveAssets, resolveModel } from '../../src/core/io/resolve.ts';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import { nodePlatform } from '../../src/platform/node.ts';
import { webPlatform } from '../../src/platform/web.ts';
import { fixture, ggufFile, text, u16 } from './build.ts';
import { FakeHub } from './fakeHub.ts';

const platform = nodePlatform();
let root = '';
let hub: FakeHub;
beforeAll(async () => {
  root = fs.mkdtempSync(join(tmpdir(), 'resolve-'));
  hub = await new FakeHub().start();
});
afterAll(() => {
  hub.stop();
  fs.rmSync(root, { recursive: true });
});

const tensors = (...names: string[]): Uint8Array =>
  writeSafetensors(
    Object.fromEntries(names.map((n) => [n, { type: 'U8' as const, shape: [1], data: new Uint8Array(1) }])),
  );
const gguf = (name: string, more: Parameters<typeof ggufFile>[0]['metadata'] = []): Uint8Array =>
  ggufFile({
    metadata: [['general.name', text(name)], ...more],
    tensors: [{ name, dims: [1], data: new Uint8Array(4) }],
  });
const index = (map: object): string => JSON.stringify({ metadata: {}, weight_map: map });

let folders = 0;
function folder(files: Record<string, string | Uint8Array>): string {
  const path = join(root, `f${folders++}`);
  for (const [name, content] of Object.entries(files)) {
    fs.mkdirSync(join(path, name, '..'), { recursive: true });
    fs.writeFileSync(join(path, name), content);
  }
  return path;
}
const resolve = (input: Parameters<typeof resolveModel>[0], more: Partial<ResolveOptions> = {}) =>
  resolveModel(input, { platform, tokenSource: 'none', retryDelayMs: 1, attempts: 2, ...more });

/** What was found: kind and tensor names. Closes it. */
async function found(input: Parameters<typeof resolveModel>[0], more: Partial<ResolveOptions> = {}): Promise<string> {
  const model = await resolve(input, more);
  const names = [...model.checkpoint.tensors.keys()].sort().join(' ');
  await model.close();
  return `${model.kind}: ${names}`;
}

describe('a folder in Hugging Face layout', () => {
  it('gives weights and small files', async () => {
    const path = folder({
      'config.json': '{"model_type": "x", "rope_theta": Infinity}',
      'generation_config.json': '{"top_k": 5}',
      'tokenizer.json': '{"version": "1.0"}',
      'tokenizer_config.json': '{"chat_template": "in config"}',
      'chat_template.jinja': 'in jinja',
      'model.safetensors': tensors('a'),
    });
    const model = await resolve(`${path}/`);
    expect(model.kind).toBe('hf');
    expect(model.name).toBe(path.split('/').at(-1));
    expect(await model.config()).toEqual({ model_type: 'x', rope_theta: Number.POSITIVE_INFINITY });
    expect(await model.generationConfig()).toEqual({ top_k: 5 });
    expect(await model.tokenizerJson()).toEqual({ version: '1.0' });
    expect(await model.tokenizerConfig()).toEqual({ chat_template: 'in config' });
    expect(await model.chatTemplate()).toBe('in jinja');
    expect(await model.readText('chat_template.jinja')).toBe('in jinja');
    expect(await model.readJson('absent.json')).toBeUndefined();
    expect(await model.readText('../f0/config.json')).toBeUndefined();
    await model.close();
  });

  it('takes the chat template from where it is', async () => {
    const templateIn = async (files: Record<string, string>) => {
      const model = await resolve(folder({ 'model.safetensors': tensors('a'), ...files }));
      return model.chatTemplate();
    };
    expect(
      await templateIn({
        'tokenizer_config.json': '{"chat_template":"a"}',
        'chat_template.json': '{"chat_template":"b"}',
      }),
    ).toBe('a');
    expect(
      await templateIn({
        'tokenizer_config.json': '{"chat_template":null}',
        'chat_template.json': '{"chat_template":"b"}',
      }),
    ).toBe('b');
    const named = [{ name: 'default', template: 'x' }];
    expect(await templateIn({ 'tokenizer_config.json': JSON.stringify({ chat_template: named }) })).toEqual(named);
    expect(await templateIn({})).toBeUndefined();
    await expect(templateIn({ 'tokenizer_config.json': '{"chat_template":7}' })).rejects.toThrow(
      /tokenizer_config.json: chat_template: expected/,
    );
    await expect(templateIn({ 'tokenizer_config.json': '{"chat_template":[{}]}' })).rejects.toThrow(FormatError);
  });

  it('joins shards, with an index or by their names', async () => {
    const shards = {
      'model-00001-of-00002.safetensors': tensors('a'),
      'model-00002-of-00002.safetensors': tensors('b'),
    };
    const map = { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' };
    expect(await found(folder({ ...shards, 'model.safetensors.index.json': index(map) }))).toBe('hf: a b');
    expect(await found(folder(shards))).toBe('hf: a b');
    const missing = folder({
      'model-00001-of-00002.safetensors': tensors('a'),
      'model.safetensors.index.json': index(map),
    });
    await expect(found(missing)).rejects.toThrow(/shard model-00002-of-00002.safetensors: .*no such file/);
    await expect(found(folder({ 'model-00001-of-00003.safetensors': tensors('a') }))).rejects.toThrow(
      /expected 3 shards, got 1/,
    );
    const odd = folder({
      'model-00001-of-00002.safetensors': tensors('a'),
      'other-00002-of-00002.safetensors': tensors('b'),
    });
    await expect(found(odd)).rejects.toThrow(/expected one set of weights/);
  });

  it('prefers the layout of the library to a second copy, and takes any single file', async () => {
    expect(await found(folder({ 'consolidated.safetensors': tensors('c'), 'model.safetensors': tensors('a') }))).toBe(
      'hf: a',
    );
    expect(await found(folder({ 'consolidated.safetensors': tensors('c') }))).toBe('hf: c');
    expect(await found(folder({ 'pytorch.safetensors': tensors('p'), 'config.json': '{}', 'x.gguf': gguf('g') }))).toBe(
      'hf: p',
    );
    const two = folder({ 'a.safetensors': tensors('a'), 'b.safetensors': tensors('b') });
    await expect(found(two)).rejects.toThrow(/got several files: a.safetensors, b.safetensors/);
    expect(await found(two, { files: ['b.safetensors'] })).toBe('hf: b');
    expect(await found(two, { files: ['b.safetensors', 'a.safetensors'] })).toBe('hf: a b');
    await expect(found(two, { files: ['c.safetensors'] })).rejects.toThrow(
      /has no file "c.safetensors"; it has: a.safetensors, b/,
    );
  });

  it('names file and place of an error in JSON', async () => {
    const path = folder({ 'config.json': '{"a": 1,\n "b": }', 'model.safetensors': tensors('a') });
    const model = await resolve(path);
    await expect(model.config()).rejects.toThrow(`${path}/config.json:2:7: expected a value`);
  });

  it('bounds what it reads as text', async () => {
    const path = folder({ 'config.json': ' '.repeat(2 ** 24 + 1), 'model.safetensors': tensors('a') });
    await expect((await resolve(path)).config()).rejects.toThrow(
      /config.json: expected at most 16777216 bytes of text/,
    );
  });

  it('says what it lacks', async () => {
    await expect(found(folder({ 'config.json': '{}' }))).rejects.toThrow(/expected weights .* found: config.json/);
    await expect(found(folder({ 'config.json': '{}', 'pytorch_model.bin': 'x' }))).rejects.toThrow(
      /convert them to safetensors/,
    );
    const empty = join(root, 'empty');
    fs.mkdirSync(empty);
    await expect(found(empty)).rejects.toThrow(/found: nothing/);
  });
});

describe('GGUF models', () => {
  const split = (no: number): Uint8Array =>
    gguf(`t${no}`, [
      ['split.no', u16(no)],
      ['split.count', u16(2)],
    ]);
  const parts = { 'm-00001-of-00002.gguf': split(0), 'm-00002-of-00002.gguf': split(1) };

  it('are found in a folder when there is one', async () => {
    expect(await found(folder({ 'x.gguf': gguf('x'), 'mmproj-x.gguf': gguf('p'), 'x.imatrix.gguf': gguf('i') }))).toBe(
      'gguf: x',
    );
    expect(await found(folder(parts))).toBe('gguf: t0 t1');
    expect(await found(folder({ 'Q4/x.gguf': gguf('x'), 'README.md': '' }))).toBe('gguf: x');
    const two = folder({ 'a.gguf': gguf('a'), 'b.gguf': gguf('b'), ...parts });
    await expect(found(two)).rejects.toThrow(
      /expected one GGUF model, got several; name one of: a.gguf, b.gguf, m-00001-of-00002.gguf/,
    );
    expect(await found(two, { files: ['b.gguf'] })).toBe('gguf: b');
    expect(await found(two, { files: ['m-00001-of-00002.gguf'] })).toBe('gguf: t0 t1');
    const lone = folder({ 'm-00001-of-00002.gguf': split(0) });
    await expect(found(lone)).rejects.toThrow(/expected 2 parts of the model, m-00002-of-00002.gguf is missing/);
  });

  it('are opened by file, without the files beside it', async () => {
    const path = folder({
      'x.gguf': gguf('x', [['tokenizer.chat_template', text('own')]]),
      'config.json': '{}',
      ...parts,
    });
    const model = await resolve(join(path, 'x.gguf'));
    expect([model.kind, model.name]).toEqual(['gguf', 'x']);
    expect(await model.config()).toBeUndefined();
    expect(await model.chatTemplate()).toBe('own');
    await model.close();
    expect(await found(join(path, 'm-00002-of-00002.gguf'))).toBe('gguf: t0 t1');
    expect(await found(`file://${join(path, 'x.gguf')}`)).toBe('gguf: x');
  });

  it('in a folder keep the small files beside them', async () => {
    const own = [['tokenizer.chat_template', text('own')]] as const;
    const path = folder({ 'x.gguf': gguf('x', own), 'tokenizer.json': '{"t":1}', 'chat_template.jinja': 'file' });
    const model = await resolve(path);
    expect(await model.tokenizerJson()).toEqual({ t: 1 });
    expect(await model.chatTemplate()).toBe('file');
  });

  it('are read from a URL', async () => {
    const bytes = fs.readFileSync(fixture('gemma2_q8_0.gguf'));
    const server = createServer(
      (_, response) => void response.writeHead(200, { 'Content-Length': bytes.length }).end(bytes),
    );
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const model = await resolve(`${url}/a/gemma.gguf?download=true`);
    expect([model.kind, model.name, model.checkpoint.tensors.size > 10]).toEqual(['gguf', 'gemma', true]);
    expect(await model.tokenizerJson()).toBeUndefined();
    await expect(resolve(`${url}/model.bin`)).rejects.toThrow(UnsupportedError);
    server.closeAllConnections();
    server.close();
  });
});

describe('files', () => {
  it('a safetensors file brings the configuration beside it', async () => {
    const path = folder({ 'x.safetensors': tensors('x'), 'y.safetensors': tensors('y'), 'config.json': '{"c":1}' });
    const model = await resolve(join(path, 'x.safetensors'));
    expect([...model.checkpoint.tensors.keys()]).toEqual(['x']);
    expect(await model.config()).toEqual({ c: 1 });
    expect(await model.tokenizerJson()).toBeUndefined();
  });

  it('of other kinds are refused', async () => {
    await expect(found(join(folder({ 'm.bin': 'x' }), 'm.bin'))).rejects.toThrow(
      /expected a .gguf, .uqff or .safetensors file, got m.bin/,
    );
  });
});

describe('a hub id', () => {
  const options = () => ({ cacheDir: join(root, 'cache'), endpoint: hub.endpoint });
  const data = (s: string) => ({ data: new TextEncoder().encode(s) });

  it('downloads weights and small files, nothing else', async () => {
    hub.files = {
      'README.md': data('#'),
      'config.json': data('{"h":1}'),
      'tokenizer.json': data('{}'),
      '1_Pooling/config.json': data('{"p":1}'),
      'pytorch_model.bin': { data: new Uint8Array(9), large: true },
      'model.safetensors.index.json': data(index({ a: 's1.safetensors', b: 's2.safetensors' })),
      's1.safetensors': { data: tensors('a'), large: true },
      's2.safetensors': { data: tensors('b'), large: true },
      's3.safetensors': { data: tensors('c'), large: true },
    };
    expect(await found('org/tiny', options())).toBe('hf: a b');
    const got = hub.downloads.map((d) => d.split(' ')[0]!.slice(5)).sort();
    expect(got).toEqual([
      '1_Pooling/config.json',
      'config.json',
      'model.safetensors.index.json',
      's1.safetensors',
      's2.safetensors',
      'tokenizer.json',
    ]);
    const model = await resolve('org/tiny', { ...options(), offline: true });
    expect(await model.config()).toEqual({ h: 1 });
    expect(model.name).toBe('org/tiny');
    await model.close();
  });

  it('with a choice of GGUF files asks for one', async () => {
    hub.files = { 'a.gguf': { data: gguf('a'), large: true }, 'b.gguf': { data: gguf('b'), large: true } };
    await expect(found('org/tiny', options())).rejects.toThrow(
      /models--org--tiny.*: expected one GGUF model, got several; name one of: a.gguf, b.gguf/,
    );
    expect(await found('org/tiny', { ...options(), files: ['b.gguf'] })).toBe('gguf: b');
  });

  it('serves small files alone', async () => {
    hub.files = { 'tokenizer.json': data('{"x":2}'), 'w.gguf': { data: gguf('w'), large: true } };
    hub.requests = [];
    const assets = await resolveAssets('org/tiny', {
      platform,
      tokenSource: 'none',
      ...options(),
      cacheDir: join(root, 'cache2'),
    });
    expect(await assets.tokenizerJson()).toEqual({ x: 2 });
    expect(hub.downloads.length).toBe(1);
  });

  it('works without files, over HTTP', async () => {
    hub.files = { 'config.json': data('{"w":1}'), 'model.safetensors': { data: tensors('a'), large: true } };
    const model = await resolve('org/tiny', { platform: webPlatform(), endpoint: hub.endpoint });
    expect([...model.checkpoint.tensors.keys()]).toEqual(['a']);
    expect(await model.config()).toEqual({ w: 1 });
  });

  it('that is a mistyped path names both', async () => {
    const error = await found('models/nothere', options()).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelLoadError);
    expect(String(error)).toMatch(
      /model "models\/nothere": no such folder here; as a hub id: models\/nothere \(revision main\): no such model/,
    );
  });
});

describe('other names', () => {
  it.each(['./nothere', '/nowhere/x.gguf', 'no-such-model', '', 'a b', 'x\0y', 'x'.repeat(100_000)])(
    '%j are refused',
    async (name) => {
      const error = await found(name).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(ModelLoadError);
      expect(String(error)).toMatch(
        /expected a folder, a .gguf, .uqff or .safetensors file, or a hub id .* there is no such path/,
      );
      expect(String(error).length).toBeLessThan(1000);
    },
  );

  it('a folder in memory is a folder', async () => {
    const files = { 'config.json': new Blob(['{"m":1}']), 'model.safetensors': tensors('a') };
    const model = await resolve(memoryFolder('dropped', files), { platform: webPlatform() });
    expect(await model.config()).toEqual({ m: 1 });
    expect(model.checkpoint.tensors.has('a')).toBe(true);
    await expect(memoryFolder('d', files).open('constructor')).rejects.toThrow(/no such file/);
  });
});
