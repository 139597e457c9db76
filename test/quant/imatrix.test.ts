import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/core/errors.ts';
import { readCimatrix, readImatrix, writeCimatrix } from '../../src/entry-quant.ts';

const url = (name: string) => new URL(`../fixtures/imatrix/${name}`, import.meta.url);
const file = (name: string) => new Uint8Array(readFileSync(url(name)));

interface Expected {
  readonly old_format: {
    readonly entries: Record<string, { readonly ncall: number; readonly values: number[] }>;
    readonly last_chunk: number;
    readonly dataset: string;
  };
  readonly new_format: {
    readonly entries: Record<string, { readonly counts: (number | number[])[]; readonly mean: number[][] }>;
    readonly chunk_count: number;
  };
  readonly cimatrix: Record<string, number[]>;
}
const expected = JSON.parse(readFileSync(url('expected.json'), 'utf8')) as Expected;

describe('importance matrices of llama.cpp', () => {
  it('older form', async () => {
    const got = await readImatrix(file('old_format.dat'));
    expect(got.datasets).toEqual([expected.old_format.dataset]);
    expect(got.chunks).toBe(expected.old_format.last_chunk);
    expect([...got.entries.keys()]).toEqual(Object.keys(expected.old_format.entries));
    for (const [name, { ncall, values }] of Object.entries(expected.old_format.entries)) {
      const entry = got.entries.get(name)!;
      expect(entry.counts).toEqual([ncall]);
      expect(entry.values).toEqual(Float32Array.from(values, (v) => v / ncall));
    }
  });

  it('GGUF form, by path', async () => {
    const got = await readImatrix(fileURLToPath(url('new_format.gguf')));
    expect(got.chunks).toBe(expected.new_format.chunk_count);
    expect(got.datasets).toEqual(['calibration-sample.txt']);
    expect([...got.entries.keys()].sort()).toEqual(Object.keys(expected.new_format.entries).sort());
    for (const [name, { counts, mean }] of Object.entries(expected.new_format.entries)) {
      const entry = got.entries.get(name)!;
      expect(entry.experts).toBe(mean.length);
      expect(entry.counts).toEqual(counts.flat());
      expect(entry.values).toEqual(Float32Array.from(mean.flat()));
    }
  });

  it('both forms say the same', async () => {
    const [older, newer] = await Promise.all([
      readImatrix(file('old_format.dat')),
      readImatrix(file('new_format.gguf')),
    ]);
    for (const [name, { values }] of older.entries) {
      newer.entries.get(name)!.values.forEach((v, k) => {
        expect(values[k]).toBeCloseTo(v, 4);
      });
    }
  });

  it('refuses models and other files', async () => {
    const model = new Uint8Array(
      readFileSync(new URL('../fixtures/models/gguf_llama_q8_0/model.gguf', import.meta.url)),
    );
    await expect(readImatrix(model)).rejects.toThrow('general.type: expected "imatrix"');
    await expect(readImatrix(new Uint8Array(0))).rejects.toThrow(FormatError);
    await expect(readImatrix(new TextEncoder().encode('{"model": 1}'))).rejects.toThrow(FormatError);
  });
});

describe('importance by module path', () => {
  it('is read and written to the byte', async () => {
    const bytes = file('sample.cimatrix');
    const got = await readCimatrix(bytes);
    expect([...got.keys()]).toEqual(Object.keys(expected.cimatrix));
    for (const [key, values] of Object.entries(expected.cimatrix))
      expect(got.get(key)).toEqual(Float32Array.from(values));
    expect(writeCimatrix(got)).toEqual(bytes);
    expect(writeCimatrix(Object.fromEntries(got))).toEqual(bytes);
    expect(await readCimatrix(writeCimatrix([]))).toEqual(new Map());
  });

  it('survives a round trip', async () => {
    const importance = fc.float({ min: 0, noNaN: true, noDefaultInfinity: true });
    const entry = fc.tuple(fc.string({ minLength: 1, unit: 'grapheme' }), fc.array(importance));
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(entry, { selector: ([key]) => key }), async (list) => {
        const entries = new Map(list.map(([key, values]) => [key, Float32Array.from(values, Math.abs)]));
        expect(await readCimatrix(writeCimatrix(entries))).toEqual(entries);
      }),
      { numRuns: 50 },
    );
  });

  it('refuses what is no importance', () => {
    for (const bad of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => writeCimatrix([['a', Float32Array.of(1, bad)]])).toThrow(`got ${bad} in column 1`);
    }
  });
});

describe('damaged importance files', () => {
  it.each(['old_format.dat', 'new_format.gguf', 'sample.cimatrix'])('%s', async (name) => {
    const whole = file(name);
    const read = (bytes: Uint8Array): Promise<unknown> =>
      name.endsWith('.cimatrix') ? readCimatrix(bytes) : readImatrix(bytes);
    await fc.assert(
      fc.asyncProperty(
        fc.nat(whole.length - 1),
        fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        fc.boolean(),
        async (cut, changes, truncate) => {
          const bytes = truncate ? whole.slice(0, cut) : whole.slice();
          for (const [at, value] of truncate ? [] : changes) bytes[at] = value;
          const error: unknown = await read(bytes).then(
            () => undefined,
            (e: unknown) => e,
          );
          if (error !== undefined) expect((error as Error).name).toMatch(/^(FormatError|UnsupportedError)$/);
          // Only the trailer of the older form may be missing.
          if (truncate && name === 'sample.cimatrix') expect(error).toBeInstanceOf(FormatError);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('lengths beyond the file allocate nothing', async () => {
    const bytes = file('sample.cimatrix');
    new DataView(bytes.buffer).setBigUint64(0, 2n ** 63n, true);
    await expect(readCimatrix(bytes)).rejects.toThrow('number of entries: expected 0 to 1048576');
    const values = file('sample.cimatrix');
    const keyBytes = Number(new DataView(values.buffer).getBigUint64(8, true));
    new DataView(values.buffer).setBigUint64(16 + keyBytes, 2n ** 40n, true);
    await expect(readCimatrix(values)).rejects.toThrow('number of values: expected 0 to');
  });
});
