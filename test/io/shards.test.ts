import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError, ModelLoadError } from '../../src/core/errors.ts';
import type { TensorData } from '../../src/core/io/safetensorsWrite.ts';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import { parseIndex, readSafetensorsIndex } from '../../src/core/io/shards.ts';
import { nodePlatform } from '../../src/platform/node.ts';

const platform = nodePlatform();
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'shards-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const shard = (...names: string[]): Uint8Array =>
  writeSafetensors(
    names.map((name, i): [string, TensorData] => [name, { type: 'U8', shape: [2], data: new Uint8Array([i, 7]) }]),
    { format: 'pt' },
  );
function index(files: Record<string, Uint8Array>, weightMap: unknown): string {
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
  const path = join(folder, `${Math.random()}.index.json`);
  writeFileSync(path, JSON.stringify({ metadata: { total_size: 4 }, weight_map: weightMap }));
  return path;
}
const open = (path: string) => readSafetensorsIndex(path, { platform });

describe('a sharded checkpoint', () => {
  it('joins the shards', async () => {
    const path = index(
      { 's1.safetensors': shard('a', 'b'), 's2.safetensors': shard('c') },
      {
        a: 's1.safetensors',
        b: 's1.safetensors',
        c: 's2.safetensors',
      },
    );
    const checkpoint = await open(path);
    expect([...checkpoint.tensors.keys()].sort()).toEqual(['a', 'b', 'c']);
    const b = checkpoint.tensors.get('b')!;
    expect(Array.from(await b.source.slice(b.offset, b.offset + b.bytes))).toEqual([1, 7]);
    expect(checkpoint.metadata.get('format')).toBe('pt');
    await checkpoint.close();
    await expect(b.source.slice(b.offset, b.offset + b.bytes)).rejects.toThrow(/read after close/);
  });

  it('names a missing shard', async () => {
    const path = index({ 's3.safetensors': shard('a') }, { a: 's3.safetensors', b: 'gone.safetensors' });
    const error = await open(path).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelLoadError);
    expect(String(error)).toMatch(/shard gone.safetensors: .*no such file; the checkpoint is incomplete/);
  });

  it('refuses a tensor that two shards hold', async () => {
    const path = index(
      { 's4.safetensors': shard('a', 'b'), 's5.safetensors': shard('b') },
      {
        a: 's4.safetensors',
        b: 's5.safetensors',
      },
    );
    await expect(open(path)).rejects.toThrow(/tensor "b": expected in one file, found in s4.safetensors and s5/);
  });

  it('refuses an index that points at the wrong shard or at none', async () => {
    const files = { 's6.safetensors': shard('a'), 's7.safetensors': shard('b') };
    const wrong = index(files, { a: 's7.safetensors', b: 's7.safetensors', c: 's6.safetensors' });
    await expect(open(wrong)).rejects.toThrow(/tensor "a": expected in s7.safetensors, found in s6/);
    const absent = index(files, { a: 's6.safetensors', z: 's6.safetensors' });
    await expect(open(absent)).rejects.toThrow(/tensor "z": expected in s6.safetensors, found in no file/);
  });

  it.each([
    '../s1.safetensors',
    '/etc/passwd',
    'x/../../s1',
    'sub/s1.safetensors',
    'C:\\s1',
    '..\\s1',
    '..',
    '',
    'a\u0000b',
    7,
    null,
    { a: 1 },
  ])('refuses the shard name %j', (name) => {
    expect(() => parseIndex(JSON.stringify({ weight_map: { a: name } }), 'index')).toThrow(
      /weight_map\["a"\]: expected the name of a file beside the index/,
    );
  });

  it('refuses what is no index', () => {
    expect(() => parseIndex('[]', 'index')).toThrow(FormatError);
    expect(() => parseIndex('null', 'index')).toThrow(FormatError);
    expect(() => parseIndex('{"weight_map":[]}', 'index')).toThrow(FormatError);
    expect(() => parseIndex('{"weight_map":{"a":"x","a":"y"}}', 'index')).toThrow(/is there twice/);
    const many = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`t${i}`, `f${i}`]));
    expect(() => parseIndex(JSON.stringify({ weight_map: many }), 'index')).toThrow(/at most 4096 files, got 5000/);
  });
});
