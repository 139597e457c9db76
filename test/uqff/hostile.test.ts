import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError, ModelLoadError, TramontaneError, UnsupportedError } from '../../src/core/errors.ts';
import { chosenSet, uqffSets } from '../../src/core/io/uqffFiles.ts';
import { parseUqffReport, type UqffReport } from '../../src/core/io/uqffReport.ts';
import { readUqff } from '../../src/entry-core.ts';
import { loadModel } from '../../src/index.ts';
import { mutate, random } from '../io/mutate.ts';
import { temporaryFolder } from '../isq/models.ts';
import { fixtures, llama, openBytes, sizes, type Tensors, tensorsOf, u8, u32, written } from './support.ts';

const FILES = ['afq4', 'hqq4', 'fp8', 'f8q8', 'mxfp4', 'q4k'] as const;
const P = 'model.layers.0.mlp.up_proj.weight';

async function damaged(type: string, change: (all: Tensors) => void): Promise<unknown> {
  const all = await tensorsOf(llama(`${type}-0.uqff`));
  change(all);
  return openBytes(written(all)).then(
    () => undefined,
    (error: unknown) => error,
  );
}

describe('damaged UQFF files', () => {
  it.each<[string, string, (all: Tensors) => void, RegExp]>([
    ['without a version', 'q4k', (t) => t.delete('uqff.version.major'), /uqff.version.major.*older than UQFF 1.0/],
    [
      'of another major version',
      'q4k',
      (t) => t.set('uqff.version.major', u32(2)),
      /UQFF 1.0 to 1.2, got 2.2.0; take a newer/,
    ],
    [
      'of an older major version',
      'q4k',
      (t) => t.set('uqff.version.major', u32(0)),
      /got 0.2.0; quantize the model again/,
    ],
    ['of a newer minor version', 'q4k', (t) => t.set('uqff.version.minor', u32(3)), /got 1.3.0/],
    [
      'with a version that is no number',
      'q4k',
      (t) => t.set('uqff.version.patch', sizes(1, 2)),
      /one U8 or U32 number/,
    ],
    ['without a format', 'q4k', (t) => t.delete(`${P}.format`), /"model.layers.0.mlp.up_proj.weight.format", got none/],
    ['of an unknown format', 'q4k', (t) => t.set(`${P}.format`, u8(7)), /format from 0 to 6, got 7/],
    [
      'with a format of two numbers',
      'q4k',
      (t) => t.set(`${P}.format`, sizes(0, 1)),
      /one number of type U8, got U32 \[2\]/,
    ],
    ['that lack a tensor', 'afq4', (t) => t.delete(`${P}.biases`), /afq expects .*weight.biases.*, got/],
    ['with a tensor too many', 'q4k', (t) => t.set(`${P}.scales`, u8(1)), /gguf expects .*, got .*weight.scales/],
    ['with a nested tensor too many', 'q4k', (t) => t.set(`${P}.a.b`, u8(1)), /gguf expects/],
    ['of another structure than they say', 'q4k', (t) => t.set(`${P}.format`, u8(6)), /mxfp4 expects/],
    ['of a type without a place', 'q4k', (t) => t.set(`${P}.dtype`, u32(19)), /expected one of 0, 1, 2, .*, got 19/],
    [
      'with a shape of more elements',
      'q4k',
      (t) => t.set(`${P}.shape`, sizes(65, 64)),
      /bytes: expected 2600 .*, got 2560/,
    ],
    ['with rows that are no blocks', 'q4k', (t) => t.set(`${P}.shape`, sizes(128, 32 + 1)), /bytes: expected NaN/],
    ['with a shape of zeros', 'q4k', (t) => t.set(`${P}.shape`, sizes(0, 64)), /positive sizes, got \[0,64\]/],
    ['with a huge shape', 'q4k', (t) => t.set(`${P}.shape`, sizes(4e9, 4e9)), /positive sizes/],
    [
      'with a shape of many sizes',
      'q4k',
      (t) => t.set(`${P}.shape`, sizes(...Array(9).fill(1))),
      /1 to 8 sizes, got 9/,
    ],
    ['of AFQ with 5 bits', 'afq4', (t) => t.set(`${P}.bits`, u8(5)), /got 5 and 64/],
    ['of AFQ with groups of 16', 'afq4', (t) => t.set(`${P}.group_size`, u8(16)), /got 4 and 16/],
    [
      'of AFQ with other bits than words',
      'afq4',
      (t) => t.set(`${P}.bits`, u8(8)),
      /weight.scales": expected \[64,0.5\]/,
    ],
    ['of HQQ with a group of 0', 'hqq4', (t) => t.set(`${P}.group_size`, u32(0)), /scales: expected Infinity/],
    ['of HQQ with 3 bits', 'hqq4', (t) => t.set(`${P}.bits`, u8(3)), /HQQ of 1, 2, 4 or 8 bits/],
    ['of HQQ with other bits', 'hqq4', (t) => t.set(`${P}.bits`, u8(8)), /bytes: expected 4096 .*, got 2048/],
    [
      'of FP8 with two scales',
      'fp8',
      (t) => t.set(`${P}.dequant_w_scale`, { type: 'F32', shape: [2], data: new Float32Array(2) }),
      /dequant_w_scale: expected 1/,
    ],
    [
      'of FP8 in another type',
      'fp8',
      (t) => t.set(P, { type: 'U8', shape: [64, 64], data: new Uint8Array(4096) }),
      /data of type F8_E4M3, got U8/,
    ],
    [
      'of F8Q8 with fewer blocks',
      'f8q8',
      (t) => t.set(`${P}.num_blocks`, u32(127)),
      /num_blocks: expected 128 .*, got 127/,
    ],
    [
      'of MXFP4 with few scales',
      'mxfp4',
      (t) => t.set(`${P}.scales`, { type: 'U8', shape: [64, 1], data: new Uint8Array(64) }),
      /expected \[64,2\] beside mxfp4 .*, got \[64,1\]/,
    ],
    [
      'without any module',
      'q4k',
      (t) => {
        for (const name of t.keys()) if (!name.startsWith('uqff.')) t.delete(name);
      },
      /expected quantized modules, got none/,
    ],
  ])('%s are refused', async (_what, type, change, message) => {
    const error = await damaged(type, change);
    expect(error).toBeInstanceOf(TramontaneError);
    expect(String(error)).toMatch(message);
  });

  it('in two files with a tensor twice, or two versions, are refused', async () => {
    const all = await tensorsOf(llama('q4k-0.uqff'));
    await expect(openBytes(written(all), written(all))).rejects.toThrow(/expected in one file, found in/);
    const versions: Tensors = new Map([...all].filter(([name]) => name.startsWith('uqff.')));
    expect((await openBytes(written(all), written(versions))).modules.size).toBe(9);
    versions.set('uqff.version.patch', u32(1));
    await expect(openBytes(written(all), written(versions))).rejects.toThrow(
      /expected one version in all files, got 0 and 1/,
    );
  });

  it('end with a typed error or well, whatever the damage', async () => {
    const files = FILES.map((type) => readFileSync(llama(`${type}-0.uqff`)));
    let [fine, bad] = [0, 0];
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.nat(files.length - 1), async (seed, i) => {
        const file = files[i]!;
        const bytes = mutate(random(seed), file, file.length, files[(i + 1) % files.length]!);
        try {
          await openBytes(bytes);
          fine++;
        } catch (error) {
          if (!(error instanceof TramontaneError)) throw error;
          bad++;
        }
      }),
      { numRuns: 600 },
    );
    expect(Math.min(fine, bad)).toBeGreaterThan(0);
  });

  it('whose numbers are changed load, or are refused with a typed error', async () => {
    for (const type of FILES) {
      const all = await tensorsOf(llama(`${type}-0.uqff`));
      const small = [...all].filter(([, t]) => t.data.byteLength <= 16).map(([name]) => name);
      await fc.assert(
        fc.asyncProperty(fc.constantFrom(...small), fc.integer({ min: 0, max: 2 ** 32 - 1 }), async (name, value) => {
          const t = all.get(name)!;
          const data = (t.data as Uint8Array).slice();
          if (t.type === 'U8') data[0] = value;
          else new DataView(data.buffer).setUint32(0, value, true);
          try {
            await openBytes(written(new Map(all).set(name, { ...t, data })));
          } catch (error) {
            if (!(error instanceof TramontaneError)) throw error;
          }
        }),
        { numRuns: 40 },
      );
    }
  });
});

describe('folders of UQFF files', () => {
  function folderOf(...types: string[]): string {
    const folder = temporaryFolder();
    for (const name of ['config.json', 'residual.safetensors', ...types.map((t) => `${t}-0.uqff`)]) {
      cpSync(llama(name), join(folder, name));
    }
    return folder;
  }

  it('without what belongs to them are refused', async () => {
    const folder = folderOf('q4k');
    rmSync(join(folder, 'residual.safetensors'));
    await expect(loadModel(folder)).rejects.toThrow(/expected residual.safetensors beside q4k-0.uqff, found none/);
    cpSync(llama('residual.safetensors'), join(folder, 'residual.safetensors'));
    rmSync(join(folder, 'config.json'));
    await expect(loadModel(folder)).rejects.toThrow(/expected a config.json/);
    cpSync(llama('config.json'), join(folder, 'config.json'));
    const bytes = readFileSync(llama('q4k-0.uqff'));
    writeFileSync(join(folder, 'q4k-0.uqff'), bytes.subarray(0, bytes.length - 100));
    await expect(loadModel(folder)).rejects.toThrow(FormatError);
    writeFileSync(join(folder, 'q4k-0.uqff'), '');
    await expect(loadModel(folder)).rejects.toThrow(/expected a safetensors file, got an empty file/);
  });

  it('with a gap are refused by the name of the file that is missing', async () => {
    const folder = folderOf('q4k');
    cpSync(llama('q8_0-0.uqff'), join(folder, 'q4k-2.uqff'));
    for (const from of [folder, join(folder, 'q4k-0.uqff'), join(folder, 'q4k-2.uqff')]) {
      await expect(loadModel(from)).rejects.toThrow(/q4k-0.uqff to q4k-2.uqff, q4k-1.uqff is missing/);
    }
    await expect(readUqff(join(folder, 'q4k-0.uqff'))).rejects.toThrow(ModelLoadError);
  });

  it('whose modules are not those of the model are refused', async () => {
    const folder = folderOf('q4k');
    const all = await tensorsOf(llama('q4k-0.uqff'));
    for (const name of [...all.keys()]) if (name.startsWith(P)) all.delete(name);
    writeFileSync(join(folder, 'q4k-0.uqff'), written(all));
    await expect(loadModel(folder)).rejects.toThrow(/no tensor "model.layers.0.mlp.up_proj.weight"/);
    const more = await tensorsOf(llama('q4k-0.uqff'));
    for (const name of [...more.keys()]) {
      if (name.startsWith(P)) more.set(name.replace('layers.0', 'layers.9'), more.get(name)!);
    }
    writeFileSync(join(folder, 'q4k-0.uqff'), written(more));
    await expect(loadModel(folder)).rejects.toThrow(/got also model.layers.9/);
  });

  const output = (quant: string, ...shards: string[]) => ({
    ...{ quant, shards, layers: 9, actual_counts: { q4_1: 9 }, fallback_count: 0 },
  });
  const reportOf = (...outputs: object[]): Record<string, unknown> => ({
    ...{ schema: 1, generated_by: { tool: 't' }, uqff_version: '1.2.0', outputs },
  });

  it('follow the report where there is one', async () => {
    const folder = folderOf('q4k');
    cpSync(join(folder, 'q4k-0.uqff'), join(folder, 'mine.uqff'));
    rmSync(join(folder, 'q4k-0.uqff'));
    writeFileSync(join(folder, 'uqff_report.json'), JSON.stringify(reportOf(output('Mine', 'mine.uqff'))));
    for (const fromUqff of ['mine', 'mine.uqff'])
      await (await loadModel(folder, { fromUqff, device: 'reference' })).dispose();
    await (await loadModel(folder, { device: 'reference' })).dispose();
    writeFileSync(join(folder, 'uqff_report.json'), JSON.stringify(reportOf(output('Mine', 'mine.uqff', 'more.uqff'))));
    await expect(loadModel(folder)).rejects.toThrow(/expected the file more.uqff, which is missing/);
    writeFileSync(join(folder, 'uqff_report.json'), '{');
    await expect(loadModel(folder)).rejects.toThrow(FormatError);
  });

  it.each<[string, unknown, RegExp]>([
    ['another schema', { ...reportOf(output('a', 'a-0.uqff')), schema: 2 }, /schema: expected 1, got 2/],
    ['no outputs', reportOf(), /outputs: expected at least one/],
    ['an output without files', reportOf(output('a')), /a: expected files, got none/],
    [
      'two names that differ in case',
      reportOf(output('a', 'a-0.uqff'), output('A', 'b-0.uqff')),
      /different names, got "A"/,
    ],
    ['an empty name', reportOf(output(' ', 'a-0.uqff')), /different names/],
    [
      'a file of two outputs',
      reportOf(output('a', 'a-0.uqff'), output('b', 'a-0.uqff')),
      /in one output, found in a and b/,
    ],
    ['a file outside', reportOf(output('a', '../a-0.uqff')), /names of files beside it/],
    [
      'a count that is none',
      { ...reportOf({ ...output('a', 'a-0.uqff'), actual_counts: { x: -1 } }) },
      /actual_counts.x/,
    ],
    ['no object', 7, /expected an object/],
  ])('refuse a report with %s', (_what, report, message) => {
    const parse = () => parseUqffReport(JSON.stringify(report), 'r.json', ['a-0.uqff', 'b-0.uqff']);
    expect(parse).toThrow(FormatError);
    expect(parse).toThrow(message);
  });

  it('are found by number from 0 on, whichever is named', () => {
    const files = ['a-0.uqff', 'a-1.uqff', 'b-0.uqff', 'plain.uqff', 'c-3.uqff', 'config.json'];
    const of = (name: string, ...stems: string[]) => chosenSet({ name, stems }, files, undefined, 'x');
    expect(of('a-1.uqff')).toEqual(['a-0.uqff', 'a-1.uqff']);
    expect(of('plain.uqff')).toEqual(['plain.uqff']);
    expect(of('c-3.uqff')).toEqual(['c-3.uqff']);
    expect(of('4', 'z', 'b', 'a')).toEqual(['b-0.uqff']);
    expect(() => of('d-0.uqff')).toThrow(/found none; it has: a-0.uqff, b-0.uqff, plain.uqff, c-3.uqff/);
    expect(uqffSets(files, undefined, 'x')).toEqual([
      ['a-0.uqff', 'a-1.uqff'],
      ['b-0.uqff'],
      ['plain.uqff'],
      ['c-3.uqff'],
    ]);
    const report = reportOf(output('b', 'a-1.uqff', 'b-0.uqff')) as unknown as UqffReport;
    expect(chosenSet({ name: 'B', stems: [] }, files, report, 'x')).toEqual(['a-1.uqff', 'b-0.uqff']);
    expect(chosenSet({ name: 'a-1.uqff', stems: [] }, files, report, 'x')).toEqual(['a-1.uqff', 'b-0.uqff']);
  });

  it('keep to the options they go with', async () => {
    const at = join(fixtures, 'llama');
    const bad = (options: object) => expect(loadModel(at, options)).rejects;
    await bad({ fromUqff: [] }).toThrow(/names of UQFF files or types/);
    await bad({ fromUqff: 'q4k', files: ['q4k-0.uqff'] }).toThrow(/not both/);
    await bad({ fromUqff: 'q4k', imatrix: 'a.imatrix', isq: 4 }).toThrow(/quantized already/);
    await bad({ fromUqff: 'q4k', calibrationFile: 'a.txt', isq: 4 }).toThrow(/quantized already/);
    await bad({ fromUqff: 'q4k', writeUqff: 'a.uqff' }).toThrow(/are UQFF already/);
    await bad({ files: ['q4k-0.uqff'], writeUqff: '/tmp/tramontane-none/a.uqff', isq: 4 }).toThrow(
      /no UQFF yet, got one/,
    );
    await expect(loadModel(llama('q4k-0.uqff'), { imatrix: 'a.imatrix', isq: 4 })).rejects.toThrow(/not quantized yet/);
    await bad({ files: ['nothing.uqff'] }).toThrow(ModelLoadError);
    await bad({ files: ['q4k-0.uqff', 'config.json'] }).toThrow(UnsupportedError);
  });
});
