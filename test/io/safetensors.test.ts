import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError, UnsupportedError } from '../../src/core/errors.ts';
import type { TensorInfo } from '../../src/core/io/checkpoint.ts';
import { bytesSource } from '../../src/core/io/memory.ts';
import { readSafetensors, SAFETENSORS_TYPES } from '../../src/core/io/safetensors.ts';
import type { TensorData } from '../../src/core/io/safetensorsWrite.ts';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import { fixture, safetensorsFile } from './build.ts';

const dataOf = (t: TensorInfo): Promise<Uint8Array> => t.source.slice(t.offset, t.offset + t.bytes);
const entry = (dtype: string, shape: unknown, start: unknown, end: unknown): object => ({
  dtype,
  shape,
  data_offsets: [start, end],
});

describe('readSafetensors', () => {
  it('reads every type that the reference writer writes, byte for byte', async () => {
    const order =
      'BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64 F4 F8_E4M3FNUZ F8_E5M2FNUZ';
    const file = await readSafetensors(readFileSync(fixture('writer.safetensors')));
    const types = order.split(' ');
    for (const [i, type] of types.entries()) {
      const tensor = file.tensors.get(`t.${type.toLowerCase()}`)!;
      expect(tensor.type.name).toBe(type);
      expect(tensor.shape).toEqual(type === 'F4' ? [2, 6] : [2, 3]);
      const bytes = await dataOf(tensor);
      expect(Array.from(bytes)).toEqual(Array.from({ length: bytes.length }, (_, j) => (37 * i + 11 * j) % 256));
    }
    expect(file.tensors.get('scalar')).toMatchObject({ shape: [], bytes: 4 });
    expect(file.tensors.get('empty')).toMatchObject({ shape: [0, 5], bytes: 0 });
    expect(file.tensors.has('ünï"\\\n')).toBe(true);
    expect([...file.metadata]).toEqual([['note', 'ä\u2028']]);
  });

  it('reads a model as transformers saves it', async () => {
    const { tensors, metadata } = await readSafetensors(readFileSync(fixture('gpt_oss_mxfp4.safetensors')));
    expect(metadata.get('format')).toBe('pt');
    const table = tensors.get('model.embed_tokens.weight')!;
    expect([table.type.name, table.shape]).toEqual(['BF16', [256, 64]]);
    const blocks = tensors.get('model.layers.0.mlp.experts.gate_up_proj_blocks')!;
    expect(blocks.type.name).toBe('U8');
    expect(blocks.shape.length).toBe(4);
  });

  const broken: readonly [string, Uint8Array, RegExp][] = [
    ['an empty file', new Uint8Array(0), /expected a safetensors file, got an empty file/],
    ['a Git LFS pointer', new TextEncoder().encode('version https://git-lfs.github.com/spec/v1\n'), /git lfs pull/],
    ['a web page', new TextEncoder().encode('<!DOCTYPE html><html><head></head></html>'), /web page/],
    ['a header longer than the file', safetensorsFile('{}', 0, 200), /expected a header of 200 bytes, got 2/],
    ['a header of 2^60 bytes', safetensorsFile('{}', 0, 2n ** 60n), /expected a safetensors file/],
    ['a header just over the limit', safetensorsFile('{}', 0, 100_000_001), /expected a safetensors file/],
    ['a header that is no JSON', safetensorsFile('{"a":}', 0), /header:1:6: expected a value/],
    ['a header that is no UTF-8', safetensorsFile('{', 200, 200), /header: expected UTF-8 text/],
    [
      'one name twice',
      safetensorsFile(`{"a":${JSON.stringify(entry('U8', [1], 0, 1))},"a":1}`, 1),
      /"a" is there twice/,
    ],
    ['an entry that is no object', safetensorsFile({ a: 1 }, 0), /tensor "a": expected an object/],
    ['a dtype that is no string', safetensorsFile({ a: entry(7 as never, [1], 0, 1) }, 1), /dtype: expected a string/],
    ['no shape', safetensorsFile({ a: { dtype: 'U8', data_offsets: [0, 1] } }, 1), /shape: expected a list/],
    ['a negative size', safetensorsFile({ a: entry('U8', [-1], 0, 1) }, 1), /shape: expected whole numbers, got -1/],
    ['a fraction', safetensorsFile({ a: entry('U8', [1.5], 0, 1) }, 1), /shape: expected whole numbers/],
    [
      'sizes of 2^60',
      safetensorsFile({ a: entry('F32', [2 ** 50, 2 ** 10], 0, 4) }, 4),
      /expected 4611686018427388000 bytes/,
    ],
    [
      'sizes beyond any number',
      safetensorsFile({ a: entry('F32', Array(16).fill(2 ** 52), 0, 4) }, 4),
      /expected .* bytes/,
    ],
    ['17 dimensions', safetensorsFile({ a: entry('U8', Array(17).fill(1), 0, 1) }, 1), /at most 16 sizes/],
    ['a shape of other size than the data', safetensorsFile({ a: entry('F32', [2], 0, 4) }, 4), /expected 8 bytes/],
    ['half a byte', safetensorsFile({ a: entry('F4', [3], 0, 2) }, 2), /expected 1.5 bytes/],
    ['an offset beyond the file', safetensorsFile({ a: entry('U8', [8], 0, 8) }, 4), /within the 4 bytes of data/],
    ['an offset of 2^60', safetensorsFile({ a: entry('U8', [1], 2 ** 60, 2 ** 60 + 1) }, 4), /two whole numbers/],
    ['offsets in the wrong order', safetensorsFile({ a: entry('U8', [1], 1, 0) }, 1), /got 1 to 0/],
    ['three offsets', safetensorsFile({ a: { dtype: 'U8', shape: [1], data_offsets: [0, 1, 2] } }, 1), /two whole/],
    ['overlapping tensors', safetensorsFile({ a: entry('U8', [4], 0, 4), b: entry('U8', [4], 2, 6) }, 6), /overlaps/],
    [
      'two tensors at one place',
      safetensorsFile({ a: entry('U8', [4], 0, 4), b: entry('U8', [4], 0, 4) }, 4),
      /overlaps/,
    ],
    ['a gap', safetensorsFile({ a: entry('U8', [2], 0, 2), b: entry('U8', [2], 4, 6) }, 6), /gap of 2 bytes/],
    ['a gap at the start', safetensorsFile({ a: entry('U8', [2], 1, 3) }, 3), /gap of 1 bytes/],
    ['bytes of no tensor', safetensorsFile({ a: entry('U8', [2], 0, 2) }, 3), /bytes of no tensor/],
    ['metadata that is no text', safetensorsFile({ __metadata__: { a: 1 } }, 0), /__metadata__."a": expected a string/],
    ['metadata that is a list', safetensorsFile({ __metadata__: ['a'] }, 0), /__metadata__: expected an object/],
    ['more values than any model has', safetensorsFile({ a: Array(2 ** 20).fill(0) }, 0), /at most 1048576 values/],
  ];
  it.each(broken)('refuses %s', async (_, bytes, message) => {
    const error = await readSafetensors(bytes).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toMatch(message);
  });

  it('names a type it does not know', async () => {
    const error = await readSafetensors(safetensorsFile({ a: entry('Q4_0', [1], 0, 1) }, 1)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect(String(error)).toContain('tensor "a": dtype: expected one of BOOL, F4');
  });

  it('ignores keys of later versions of the format', async () => {
    const file = safetensorsFile({ a: { ...entry('U8', [1], 0, 1), extra: { deep: [1, 2] } } }, 1);
    expect((await readSafetensors(file)).tensors.size).toBe(1);
  });

  it('closes the source, also after an error', async () => {
    let closed = 0;
    const counted = (bytes: Uint8Array) => ({ ...bytesSource(bytes), close: async () => void closed++ });
    await (await readSafetensors(counted(safetensorsFile({}, 0)))).close();
    expect(closed).toBe(1);
    await expect(readSafetensors(counted(safetensorsFile({}, 1)))).rejects.toThrow(FormatError);
    expect(closed).toBe(2);
  });
});

describe('writeSafetensors', () => {
  it('writes the bytes of the reference writer', async () => {
    const reference = new Uint8Array(readFileSync(fixture('writer.safetensors')));
    const file = await readSafetensors(reference);
    const tensors: [string, TensorData][] = [];
    for (const [name, t] of file.tensors) {
      tensors.unshift([name, { type: t.type.name, shape: t.shape, data: await dataOf(t) }]);
    }
    expect(writeSafetensors(tensors, { note: 'ä\u2028' })).toEqual(reference);
  });

  it('round-trips any tensors', async () => {
    const tensor = fc
      .record({
        type: fc.constantFrom(...SAFETENSORS_TYPES),
        shape: fc.array(fc.nat(5), { maxLength: 4 }),
      })
      .map(({ type, shape }) => ({ type, shape: [...shape, 8] }));
    const names = fc.string({ unit: 'binary', maxLength: 12 }).filter((n) => n !== '__metadata__');
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(names, tensor, { maxKeys: 8 }),
        fc.dictionary(names, names),
        async (specs, meta) => {
          const tensors = Object.entries(specs).map(([name, { type, shape }], i): [string, TensorData] => {
            const bits = { F4: 4, F6_E2M3: 6, F6_E3M2: 6 }[type as string] ?? widthOf(type) * 8;
            const data = new Uint8Array((shape.reduce((a, b) => a * b, 1) * bits) / 8).fill(i + 1);
            return [name, { type, shape, data }];
          });
          const file = await readSafetensors(writeSafetensors(tensors, meta));
          expect(new Map(file.metadata)).toEqual(new Map(Object.entries(meta)));
          expect(new Set(file.tensors.keys())).toEqual(new Set(Object.keys(specs)));
          for (const [name, { type, shape, data }] of tensors) {
            const t = file.tensors.get(name)!;
            expect([t.type.name, t.shape]).toEqual([type, shape]);
            expect(await dataOf(t)).toEqual(data);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('takes typed arrays and views as they lie', async () => {
    const data = new Float32Array([0, 1.5, -2, 9]).subarray(1, 3);
    const file = await readSafetensors(writeSafetensors({ x: { type: 'F32', shape: [2], data } }));
    const bytes = await dataOf(file.tensors.get('x')!);
    expect(new Float32Array(bytes.slice().buffer)).toEqual(new Float32Array([1.5, -2]));
  });

  it('refuses what would not read back', () => {
    const data = new Uint8Array(4);
    expect(() => writeSafetensors({ x: { type: 'F32', shape: [2], data } })).toThrow(/expected 8 bytes .* got 4/);
    expect(() => writeSafetensors({ x: { type: 'Q4_0', shape: [32], data } })).toThrow(
      /expected a type of safetensors/,
    );
    expect(() => writeSafetensors({ __metadata__: { type: 'U8', shape: [4], data } })).toThrow(/reserved/);
    const twice: [string, TensorData][] = [1, 2].map(() => ['x', { type: 'U8', shape: [4], data }]);
    expect(() => writeSafetensors(twice)).toThrow(/expected each name once/);
  });
});

function widthOf(type: string): number {
  const bits = /(\d+)/.exec(type.replace(/^F8.*/, 'F8').replace('BOOL', 'U8'))![1];
  return Number(bits) / 8;
}
