import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError, ModelLoadError, UnsupportedError } from '../../src/core/errors.ts';
import { readGguf } from '../../src/core/io/gguf.ts';
import { bytesSource } from '../../src/core/io/memory.ts';
import { nodePlatform } from '../../src/platform/node.ts';
import type { Value } from './build.ts';
import * as b from './build.ts';

const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');
const MODEL = new URL('../../models/smollm2-135m-instruct-q4_1.gguf', import.meta.url).pathname;
const plain = (value: unknown): unknown => (ArrayBuffer.isView(value) ? Array.from(value as Uint8Array) : value);

describe('readGguf agrees with the reference reader', () => {
  it.each(['gemma2_q8_0', 'llama_legacy_mix'])('on %s', async (name) => {
    const expected = JSON.parse(readFileSync(b.fixture(`${name}.gguf.json`), 'utf8'));
    const file = await readGguf(b.fixture(`${name}.gguf`), { platform: nodePlatform() });
    expect([...file.metadata.keys()].sort()).toEqual(Object.keys(expected.metadata).sort());
    for (const [key, value] of file.metadata) expect([key, plain(value)]).toEqual([key, expected.metadata[key]]);
    expect([...file.tensors.keys()]).toEqual(Object.keys(expected.tensors));
    for (const [key, t] of file.tensors) {
      const { sha256: hash, ...place } = expected.tensors[key];
      expect({ type: t.type.name, shape: t.shape, offset: t.offset, bytes: t.bytes }).toEqual(place);
      expect(sha256(await t.source.slice(t.offset, t.offset + t.bytes))).toBe(hash);
    }
    await file.close();
  });

  it('on the vocabulary and tensors of the embedded model', async () => {
    const { tensors: places, ...lists } = JSON.parse(readFileSync(b.fixture('smollm2.json'), 'utf8'));
    const file = await readGguf(MODEL, { platform: nodePlatform() });
    for (const [key, expected] of Object.entries<{ length: number; sha256: string; some: Record<string, string> }>(
      lists,
    )) {
      const lazy = file.metadata.strings(key)!;
      for (const [i, text] of Object.entries(expected.some)) expect(lazy.at(Number(i))).toBe(text);
      const strings = file.metadata.get(key) as readonly string[];
      expect(Array.isArray(strings)).toBe(true);
      expect(strings.length).toBe(expected.length);
      expect(sha256(strings.join('\0'))).toBe(expected.sha256);
      expect(file.metadata.get(key)).toBe(strings);
    }
    expect(file.metadata.get('tokenizer.ggml.token_type')).toBeInstanceOf(Int32Array);
    for (const [name, place] of Object.entries(places)) {
      const t = file.tensors.get(name)!;
      expect([t.type.name, t.shape, t.offset, t.bytes]).toEqual(place);
    }
    expect(file.tensors.size).toBe(272);
    await file.close();
  });
});

describe('GGUF metadata', () => {
  const read = async (metadata: readonly (readonly [string, Value])[]) =>
    (await readGguf(b.ggufFile({ metadata }))).metadata;

  it('reads every type', async () => {
    const m = await read([
      ['u8', b.u8(255)],
      ['i8', b.i8(-128)],
      ['u16', b.u16(65535)],
      ['i16', b.i16(-32768)],
      ['u32', b.u32(2 ** 32 - 1)],
      ['i32', b.i32(-(2 ** 31))],
      ['f32', b.f32(0.1)],
      ['bool', b.bool(1)],
      ['text', b.text('ä\ufeff\u0000😀')],
      ['u64', b.u64(2n ** 53n - 1n)],
      ['u64 large', b.u64(2n ** 64n - 1n)],
      ['i64', b.i64(-(2n ** 53n) + 1n)],
      ['i64 large', b.i64(-(2n ** 63n))],
      ['f64', b.f64(0.1)],
    ]);
    expect([...m.values()]).toEqual([
      ...[255, -128, 65535, -32768, 2 ** 32 - 1, -(2 ** 31), Math.fround(0.1), true, 'ä\ufeff\u0000😀'],
      ...[2 ** 53 - 1, 2n ** 64n - 1n, -(2 ** 53) + 1, -(2n ** 63n), 0.1],
    ]);
    expect(m.size).toBe(14);
    expect(m.get('absent')).toBeUndefined();
    expect(m.strings('u8')).toBeUndefined();
  });

  it('reads arrays of every type, also at odd places and nested', async () => {
    const m = await read([
      ['odd', b.u8(1)],
      ['u8', b.array(0, [b.u8(1), b.u8(2)])],
      ['i8', b.array(1, [b.i8(-1)])],
      ['u16', b.array(2, [b.u16(500)])],
      ['i16', b.array(3, [b.i16(-500)])],
      ['u32', b.array(4, [b.u32(70000)])],
      ['i32', b.array(5, [b.i32(-70000)])],
      ['f32', b.array(6, [b.f32(1.5)])],
      ['bool', b.array(7, [b.bool(0), b.bool(1)])],
      ['text', b.array(8, [b.text('a'), b.text(''), b.text('ü')])],
      ['u64', b.array(10, [b.u64(5n), b.u64(2n ** 60n)])],
      ['i64', b.array(11, [b.i64(-5n)])],
      ['f64', b.array(12, [b.f64(-0.25)])],
      ['none', b.array(8, [])],
      ['nested', b.array(9, [b.array(8, [b.text('x')]), b.array(5, [b.i32(3)]), b.array(9, [])])],
    ]);
    expect(m.get('u8')).toEqual(new Uint8Array([1, 2]));
    expect(m.get('i8')).toEqual(new Int8Array([-1]));
    expect(m.get('u16')).toEqual(new Uint16Array([500]));
    expect(m.get('i16')).toEqual(new Int16Array([-500]));
    expect(m.get('u32')).toEqual(new Uint32Array([70000]));
    expect(m.get('i32')).toEqual(new Int32Array([-70000]));
    expect(m.get('f32')).toEqual(new Float32Array([1.5]));
    expect(m.get('bool')).toEqual([false, true]);
    expect(m.get('text')).toEqual(['a', '', 'ü']);
    expect(m.get('u64')).toEqual([5, 2n ** 60n]);
    expect(m.get('i64')).toEqual([-5]);
    expect(m.get('f64')).toEqual(new Float64Array([-0.25]));
    expect(m.get('none')).toEqual([]);
    expect(m.get('nested')).toEqual([['x'], new Int32Array([3]), []]);
  });

  it('decodes lists of strings as one decoder call per string would', async () => {
    // Malformed in each of the ways there are: short forms, surrogates, beyond Unicode, cut, stray.
    const wrong = [
      'c080',
      'c1bf',
      'e08080',
      'e09fbf',
      'eda080',
      'edbfbf',
      'f08080af',
      'f08fbfbf',
      'f4908080',
      'f5808080',
    ];
    const odd = [
      ...wrong,
      'e282',
      'f09f98',
      '80',
      'ff',
      'c3',
      'e28241',
      'efbbbf',
      'eea080',
      'f48fbfbf',
      'ed9fbf',
      'e0a080',
    ];
    const bytes = fc
      .array(fc.oneof(fc.constantFrom(...odd.map((hex) => Buffer.from(hex, 'hex'))), fc.uint8Array({ maxLength: 3 })), {
        maxLength: 4,
      })
      .map((parts) => new Uint8Array(Buffer.concat(parts)));
    const utf8 = fc.string({ unit: 'binary', maxLength: 8 }).map((s) => new TextEncoder().encode(s));
    const raw = (text: Uint8Array): Value => ({ type: 8, write: (out) => void out.u64(text.length).raw(text) });
    const decode = (text: Uint8Array): string => new TextDecoder('utf-8', { ignoreBOM: true }).decode(text);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.oneof(bytes, utf8), { maxLength: 20 }), async (texts) => {
        const m = await read([['list', b.array(8, texts.map(raw))]]);
        const list = m.strings('list')!;
        expect(texts.map((_, i) => list.at(i))).toEqual(texts.map(decode));
        expect([...list]).toEqual(texts.map(decode));
        expect(list.at(texts.length)).toBeUndefined();
        for (const [i, text] of texts.entries()) {
          expect(list.bytes.subarray(list.starts[i], list.end(i))).toEqual(text);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('reads a header of several pieces, each byte once', async () => {
    const words = Array.from({ length: 300_000 }, (_, i) => `token ${i} ä`);
    const file = b.ggufFile({
      metadata: [
        ['before', b.u32(1)],
        ['words', b.array(8, words.map(b.text))],
        ['after', b.text('end')],
      ],
      tensors: [{ name: 't', dims: [4], data: new Uint8Array(16).fill(3) }],
    });
    const inner = bytesSource(file);
    let read = 0;
    let calls = 0;
    const counted = {
      ...inner,
      slice(start: number, end: number) {
        read += end - start;
        calls++;
        return inner.slice(start, end);
      },
    };
    const { metadata, tensors } = await readGguf(counted);
    expect(metadata.get('words')).toEqual(words);
    expect(metadata.get('after')).toBe('end');
    expect(tensors.get('t')!.offset).toBe(file.length - 16);
    expect(read).toBeLessThanOrEqual(file.length);
    expect(calls).toBeLessThan(5);
  });
});

describe('GGUF tensors', () => {
  it('have row-major shapes and aligned places', async () => {
    const { tensors } = await readGguf(
      b.ggufFile({
        version: 2,
        alignment: 64,
        metadata: [['general.alignment', b.u32(64)]],
        tensors: [
          { name: 'a', dims: [3, 2], data: new Uint8Array(24) },
          { name: 'q', dims: [64, 2, 1, 3], type: 2, data: new Uint8Array(12 * 18) },
          { name: 's', dims: [], data: new Uint8Array(4) },
          { name: 'empty', dims: [0, 7] },
        ],
      }),
    );
    expect(tensors.get('a')).toMatchObject({ shape: [2, 3], bytes: 24 });
    expect(tensors.get('q')).toMatchObject({ shape: [3, 1, 2, 64], bytes: 216 });
    expect(tensors.get('q')!.offset - tensors.get('a')!.offset).toBe(64);
    expect(tensors.get('s')).toMatchObject({ shape: [], bytes: 4 });
    expect(tensors.get('empty')).toMatchObject({ shape: [7, 0], bytes: 0 });
    for (const t of tensors.values()) expect(t.offset % 64).toBe(0);
  });

  const big = 2n ** 60n;
  const one = { name: 'a', dims: [8], data: new Uint8Array(32) };
  const meta = (...pairs: (readonly [string, Value])[]) => b.ggufFile({ metadata: pairs });
  const broken: readonly [string, Uint8Array, RegExp][] = [
    ['an empty file', new Uint8Array(0), /expected a GGUF file, got 0 bytes/],
    ['another format', b.ggufFile({ magic: 'ggjt' }), /an older GGML format/],
    ['a safetensors file', b.safetensorsFile({ a: 1 }, 50), /expected a GGUF file, got a safetensors file/],
    ['a header cut short', b.ggufFile({}).subarray(0, 20), /header: expected 16 bytes at 8, got 12/],
    ['2^60 tensors', b.ggufFile({ tensorCount: big }), /at most 131072 tensors, got 1152921504606847000/],
    ['2^60 keys', b.ggufFile({ keyCount: big }), /at most 65536 metadata keys/],
    ['2^16 keys in a short file', b.ggufFile({ keyCount: 65536 }), /expected room for 65536 metadata keys/],
    ['a key of 2^60 bytes', lyingAt(24, big), /metadata key 0: expected a string of at most 65535 bytes, got 115292/],
    ['a key of 70000 bytes', meta(['k'.repeat(70000), b.u8(0)]), /a string of at most 65535 bytes, got 70000/],
    ['one key twice', meta(['a', b.u8(0)], ['a', b.u8(0)]), /metadata key "a": expected once/],
    [
      'an unknown value type',
      meta(['a', { type: 13, write: () => {} }]),
      /"a": expected a value type from 0 to 12, got 13/,
    ],
    ['an unknown element type', meta(['a', b.array(77, [], 1)]), /expected an element type from 0 to 12, got 77/],
    ['a boolean of 2', meta(['a', b.bool(2)]), /"a": expected 0 or 1 for a boolean, got 2/],
    ['a text of 2^60 bytes', meta(['a', { type: 8, write: (o) => void o.u64(big) }]), /a string of at most/],
    ['a text beyond the file', meta(['a', { type: 8, write: (o) => void o.u64(1000) }]), /expected 1000 bytes at/],
    ['2^60 numbers', meta(['a', b.array(4, [], big)]), /"a": expected 4611686018427388000 bytes/],
    ['2^60 texts', meta(['a', b.array(8, [], big)]), /"a": expected at most 0 elements in the rest of the file/],
    ['2^60 flags', meta(['a', b.array(7, [], big)]), /"a": expected 1152921504606847000 bytes/],
    ['2^60 arrays', meta(['a', b.array(9, [], big)]), /"a": expected at most 0 elements/],
    [
      'texts beyond the file',
      meta(['a', b.array(8, [b.text('x'), { type: 8, write: (o) => void o.u64(99) }])]),
      /"a": expected/,
    ],
    ['arrays five deep', meta(['a', b.array(9, [b.array(9, [b.array(9, [b.array(9, [b.array(0, [])])])])])]), /4 deep/],
    ['an alignment of 0', meta(['general.alignment', b.u32(0)]), /expected a power of two up to 1048576, got 0/],
    ['an alignment of 48', meta(['general.alignment', b.u32(48)]), /got 48/],
    ['an alignment of 2^31', meta(['general.alignment', b.u32(2 ** 31)]), /got 2147483648/],
    ['an alignment in words', meta(['general.alignment', b.text('32')]), /got 32/],
    ['five dimensions', b.ggufFile({ tensors: [{ name: 'a', dims: [1, 1, 1, 1, 1] }] }), /at most 4 dimensions, got 5/],
    ['2^32 - 1 dimensions', lyingAt(33, 0xffffffffn), /at most 4 dimensions, got 4294967295/],
    ['2^60 elements', b.ggufFile({ tensors: [{ name: 'a', dims: [big] }] }), /fewer than 2\^53 elements/],
    ['a product that overflows', b.ggufFile({ tensors: [{ name: 'a', dims: [2 ** 30, 2 ** 30, 2 ** 30] }] }), /2\^53/],
    ['2^60 rows of nothing', b.ggufFile({ tensors: [{ name: 'a', dims: [0, big] }] }), /2\^53/],
    [
      'half a block',
      b.ggufFile({ tensors: [{ name: 'a', dims: [33], type: 2 }] }),
      /whole Q4_0 blocks \(32 elements\), got rows of 33/,
    ],
    ['one tensor twice', b.ggufFile({ tensors: [one, one] }), /tensor "a": expected once, got it twice/],
    [
      'overlapping tensors',
      b.ggufFile({ tensors: [one, { ...one, name: 'b', offset: 0 }] }),
      /overlaps tensor "a"|overlaps tensor "b"/,
    ],
    [
      'an odd offset',
      b.ggufFile({ tensors: [{ name: 'a', dims: [1], offset: 4, data: new Uint8Array(32) }] }),
      /multiple of 32, got 4/,
    ],
    [
      'an offset beyond the file',
      b.ggufFile({ tensors: [{ ...one, offset: 64 }] }),
      /expected 32 bytes at 64 of the data, got 32/,
    ],
    ['an offset of 2^60', b.ggufFile({ tensors: [{ ...one, offset: big }] }), /truncated or damaged/],
    ['data cut short', b.ggufFile({ tensors: [one] }).slice(0, -1), /expected 32 bytes at 0 of the data, got 31/],
    [
      'no data at all',
      b.ggufFile({ tensors: [{ name: 'a', dims: [8] }] }).slice(0, -6),
      /bytes at 0 of the data, got 0/,
    ],
  ];
  it.each(broken)('refuses %s', async (_, bytes, message) => {
    const started = process.cpuUsage();
    const error = await readGguf(bytes).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toMatch(message);
    const { user, system } = process.cpuUsage(started);
    expect((user + system) / 1000).toBeLessThan(1000);
  });

  const unsupported: readonly [string, Uint8Array, RegExp][] = [
    ['version 1', b.ggufFile({ version: 1 }), /expected GGUF version 2 or 3, got 1/],
    ['version 4', b.ggufFile({ version: 4 }), /expected GGUF version 2 or 3, got 4/],
    ['big-endian', b.ggufFile({ version: 0x03000000 }), /got a big-endian one/],
    [
      'a type number it does not know',
      b.ggufFile({ tensors: [{ ...one, name: 'blk.0.x', type: 4 }] }),
      /tensor "blk.0.x": .* got 4/,
    ],
  ];
  it.each(unsupported)('does not support %s, and says so', async (_, bytes, message) => {
    const error = await readGguf(bytes).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect(String(error)).toMatch(message);
  });
});

describe('a split GGUF model', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'split-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const part = (no: number, count: number, names: string[], total = 3, more: (readonly [string, Value])[] = []) =>
    b.ggufFile({
      metadata: [
        ['split.no', b.u16(no)],
        ['split.count', b.u16(count)],
        ['split.tensors.count', b.i32(total)],
        ...more,
      ],
      tensors: names.map((name) => ({ name, dims: [4], data: new Uint8Array(16).fill(name.charCodeAt(0)) })),
    });
  const save = (name: string, files: Uint8Array[]): string[] =>
    files.map((bytes, i) => {
      const five = (n: number): string => String(n).padStart(5, '0');
      const path = join(folder, `${name}-${five(i + 1)}-of-${five(files.length)}.gguf`);
      writeFileSync(path, bytes);
      return path;
    });
  const open = (path: string) => readGguf(path, { platform: nodePlatform() });

  it('opens by any of its parts', async () => {
    const paths = save('m', [part(0, 2, ['a'], 3, [['general.name', b.text('split')]]), part(1, 2, ['b', 'c'])]);
    for (const path of paths) {
      const file = await open(path);
      expect([...file.tensors.keys()]).toEqual(['a', 'b', 'c']);
      expect(file.metadata.get('general.name')).toBe('split');
      const c = file.tensors.get('c')!;
      expect((await c.source.slice(c.offset, c.offset + 1))[0]).toBe('c'.charCodeAt(0));
      await file.close();
    }
  });

  it('opens from a list of sources', async () => {
    const file = await readGguf([part(0, 2, ['a']), part(1, 2, ['b', 'c'])]);
    expect(file.tensors.size).toBe(3);
  });

  it('says what is wrong with a set', async () => {
    const [first] = save('gone', [part(0, 2, ['a']), part(1, 2, ['b', 'c'])]);
    rmSync(first!.replace('00001-of', '00002-of'));
    await expect(open(first!)).rejects.toThrow(ModelLoadError);
    await expect(open(first!)).rejects.toThrow(/part 2 of 2: .*no such file; the model is incomplete/);
    const renamed = join(folder, 'other.gguf');
    writeFileSync(renamed, part(0, 2, ['a']));
    await expect(open(renamed)).rejects.toThrow(/expected 2 parts as split.count says, got 1/);
    await expect(open(save('count', [part(0, 3, ['a']), part(1, 3, ['b'])])[0]!)).rejects.toThrow(/expected 3 parts/);
    await expect(open(save('order', [part(1, 2, ['a']), part(0, 2, ['b'])])[0]!)).rejects.toThrow(
      /split.no: expected 0, got 1/,
    );
    await expect(open(save('few', [part(0, 2, ['a']), part(1, 2, ['b'])])[0]!)).rejects.toThrow(
      /expected 3 tensors, got 2/,
    );
    await expect(open(save('twice', [part(0, 2, ['a']), part(1, 2, ['a', 'c'])])[0]!)).rejects.toThrow(
      /tensor "a": expected in one part/,
    );
    await expect(readGguf([])).rejects.toThrow(/expected a GGUF file, got an empty list/);
    await expect(readGguf(part(0, 0, ['a', 'b', 'c']))).resolves.toBeDefined();
    await expect(open(join(folder, 'x-00001-of-99999.gguf'))).rejects.toThrow(/at most 4096 parts/);
  });
});

/** A valid file with a number put over another one: the first length is at 24, the first dimension count at 33. */
function lyingAt(at: number, value: bigint): Uint8Array {
  const keyed = at === 24 ? { metadata: [['k', b.u8(0)]] as const } : {};
  const file = b.ggufFile({ ...keyed, tensors: [{ name: 'a', dims: [8], data: new Uint8Array(32) }] });
  new DataView(file.buffer).setBigUint64(at, value, true);
  return file;
}
