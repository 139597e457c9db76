import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Staging } from '../../src/core/io/publish.ts';
import type { Platform } from '../../src/core/platform.ts';
import { readUqff } from '../../src/entry-core.ts';
import { AbortError, ConfigError, loadModel, UnsupportedError, writeUqff } from '../../src/index.ts';
import { detectPlatform } from '../../src/platform/detect.ts';
import { logitsOf, matricesOf, SMALL, temporaryFolder, writeModel } from '../isq/models.ts';
import { fixtures, logitsAt, tensorsOf } from './support.ts';

const model = (name: string) => new URL(`../fixtures/models/${name}`, import.meta.url).pathname;
const json = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));

describe('a set of UQFF files', () => {
  it('is cut where a file would be larger, and read as one', async () => {
    const folder = writeModel(SMALL);
    const out = temporaryFolder();
    const seen: number[] = [];
    await writeUqff(folder, join(out, 'part.uqff'), {
      types: ['Q4K'],
      maxShardBytes: 60_000,
      onProgress: ({ stage, done, total }) => {
        expect([stage, done <= total]).toEqual(['quantize', true]);
        seen.push(done / total);
      },
    });
    expect(seen.at(-1)).toBe(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    const shards = readdirSync(out)
      .filter((n) => n.endsWith('.uqff'))
      .sort();
    expect(shards.length).toBeGreaterThan(3);
    expect(shards[0]).toBe('part-0.uqff');
    for (const [i, shard] of shards.entries()) {
      const tensors = await tensorsOf(join(out, shard));
      expect(tensors.has('uqff.version.major')).toBe(i === 0);
      const bytes = [...tensors.values()].reduce((n, t) => n + t.data.byteLength, 0);
      // One tensor may be larger than the limit by itself.
      expect(bytes <= 60_000 || tensors.size === 1).toBe(true);
    }
    expect((await readUqff(join(out, 'part-1.uqff'))).modules.size).toBe(9);
    expect(await logitsAt(join(out, 'part-2.uqff'))).toEqual(await logitsAt(folder, { isq: 'Q4K' }));
    expect(json(out, 'uqff_report.json').outputs[0].shards).toEqual(shards);
  });

  it('shares its folder with those of other types, a report and a card', async () => {
    const folder = writeModel({ ...SMALL, hidden: 64, inner: 96 }, undefined, {
      quantization_config: undefined,
      nested: { quantization_config: { bits: 4 }, kept: 1 },
    });
    writeFileSync(join(folder, 'generation_config.json'), '{"eos_token_id": 5}');
    const out = join(temporaryFolder(), 'set');
    const reports = await writeUqff(folder, out, { types: [4, 'q8_0'], baseModel: 'org/base', repoId: 'me/set' });
    expect(reports.map((r) => r.default)).toEqual(['Q4K', 'AFQ4', 'Q8_0']);
    expect(readdirSync(out).sort()).toEqual([
      ...['README.md', 'afq4-0.uqff', 'config.json', 'generation_config.json', 'q4k-0.uqff', 'q8_0-0.uqff'],
      ...['residual.safetensors', 'uqff_report.json'],
    ]);
    expect(json(out, 'config.json').nested).toEqual({ kept: 1 });
    expect(json(out, 'generation_config.json')).toEqual({ eos_token_id: 5 });
    const report = json(out, 'uqff_report.json');
    expect(report).toMatchObject({ schema: 1, base_model: 'org/base', repo_id: 'me/set', uqff_version: '1.2.0' });
    const [q4k, afq4] = report.outputs;
    // Rows of 64 and 96: Q4K becomes Q4_1, Q6K of the tables Q8_0, and AFQ4 does not fit the 96.
    expect(q4k).toMatchObject({ quant: 'q4k', layers: 9, actual_counts: { q4_1: 7, q8_0: 2 }, fallback_count: 9 });
    expect(afq4).toMatchObject({ quant: 'afq4', actual_counts: { afq4: 6, afq6: 2, unquant: 1 }, fallback_count: 1 });
    expect(afq4.fallbacks[0]).toEqual({
      ...{ module: 'model.layers.0.mlp.down_proj', from: 'afq4', to: 'unquant', shape: [64, 96] },
      reason: 'rows of 96 columns',
    });
    expect(q4k.layer_details[0]).toEqual({
      ...{ module: 'lm_head', default_target: 'q4k', resolved_target: 'q6k', stored: 'q8_0', shape: [96, 64] },
    });
    const residual = await tensorsOf(join(out, 'residual.safetensors'));
    expect([...residual.keys()].every((name) => /norm.weight$/.test(name))).toBe(true);
    const card = readFileSync(join(out, 'README.md'), 'utf8');
    expect(card).toContain('base_model: "org/base"');
    expect(card).toContain('tramontane run -m me/set --from-uqff q4k');
    for (const [fromUqff, isq] of [
      ['4', 'Q4K'],
      ['afq4', 'AFQ4'],
      ['8', 'Q8_0'],
    ] as const) {
      expect(await logitsAt(out, { fromUqff })).toEqual(await logitsAt(folder, { isq }));
    }
  });

  it('has the parts of a checkpoint that nothing quantizes beside it', async () => {
    const spec = { ...SMALL, experts: 3 };
    const folder = writeModel(spec);
    const out = temporaryFolder();
    await writeUqff(folder, join(out, 'moe.uqff'), { types: ['Q4K'] });
    const { modules } = await readUqff(join(out, 'moe-0.uqff'));
    const experts = [...modules.values()].filter((m) => m.name.includes('experts'));
    expect(experts.map((m) => [m.name, m.shape])).toEqual(
      ['down_proj', 'gate_proj', 'up_proj'].map((n) => [`model.layers.0.block_sparse_moe.experts.${n}`, [3, 256, 256]]),
    );
    const residual = await tensorsOf(join(out, 'residual.safetensors'));
    expect(residual.get('model.layers.0.block_sparse_moe.gate.weight')?.shape).toEqual([3, 256]);
    // One expert of another type: the three matrices cannot be stacks.
    const topology = { '/experts.1.w3/': { isq: 'Q8_0' } };
    await writeUqff(folder, join(out, 'moe.uqff'), { types: ['Q4K'], topology });
    const mixed = await readUqff(join(out, 'moe-0.uqff'));
    expect(mixed.modules.get('model.layers.0.block_sparse_moe.experts.1.up_proj')?.numbers.get('dtype')).toBe(8);
    expect(await logitsAt(join(out, 'moe-0.uqff'))).toEqual(await logitsAt(folder, { isq: 'Q4K', topology }));
    await writeUqff(folder, join(out, 'moe.uqff'), { types: ['Q4K'], mixtureQexpertsIsq: true });
    expect((await readUqff(join(out, 'moe-0.uqff'))).modules.size).toBe(3);
    const only = { isq: 'Q4K', mixtureQexpertsIsq: true };
    expect(await logitsAt(join(out, 'moe-0.uqff'))).toEqual(await logitsAt(folder, only));
  });

  it('is written before a model is loaded, where the options ask for it', async () => {
    const folder = writeModel(SMALL);
    const out = join(temporaryFolder(), 'set');
    const loaded = await loadModel(folder, {
      ...{ device: 'reference', pagedAttn: { cacheType: 'f32' } },
      writeUqff: { output: out, types: ['AFQ4', 'Q8_0'] },
    });
    const logits = await logitsOf(loaded, [3, 17, 5, 40, 41, 2, 9, 30]);
    expect(loaded.quantReport()?.default).toBe('AFQ4');
    await loaded.dispose();
    expect(await logitsAt(out, { fromUqff: 'afq4' })).toEqual(logits);
    const file = join(temporaryFolder(), 'one.uqff');
    await (await loadModel(folder, { device: 'reference', isq: 'Q4K', writeUqff: file })).dispose();
    expect(existsSync(file.replace('.uqff', '-0.uqff'))).toBe(true);
    const bad = (options: object) => expect(loadModel(folder, options)).rejects;
    await bad({ writeUqff: file }).toThrow(/isq or types beside it, got neither/);
    await bad({ isq: 'Q8_0', writeUqff: { output: file, types: ['Q4K'] } }).toThrow(/the first of writeUqff.types/);
    await bad({ writeUqff: { output: file, types: [] } }).toThrow(/at least one type/);
    await bad({ writeUqff: { output: file, kind: 1 } }).toThrow(/writeUqff.kind/);
    await bad({ writeUqff: { types: ['Q4K'] } }).toThrow(/writeUqff.output/);
  });

  it('of GGUF files takes its tokenizer from elsewhere', async () => {
    const gguf = join(model('gguf_qwen3moe_q8_0'), 'model.gguf');
    const out = join(temporaryFolder(), 'out');
    await expect(writeUqff(gguf, out, { types: ['Q4_0'] })).rejects.toThrow(/expected a tokenizer.json.*tokModelId/);
    expect(existsSync(out)).toBe(false);
    const tokModelId = temporaryFolder();
    const tokenizer = '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}';
    writeFileSync(join(tokModelId, 'tokenizer.json'), tokenizer);
    await writeUqff(gguf, out, { types: ['Q4_0'], tokModelId });
    expect(readFileSync(join(out, 'tokenizer.json'), 'utf8')).toBe(tokenizer);
    expect(await logitsAt(out)).toEqual(await logitsAt(gguf, { isq: 'Q4_0' }));
  });

  it('keeps to types and places', async () => {
    const folder = writeModel(SMALL);
    const out = temporaryFolder();
    const bad = (output: string, types: (string | number)[]) => expect(writeUqff(folder, output, { types })).rejects;
    await bad(join(out, 'a.uqff'), []).toThrow(/at least one, got none/);
    await bad(join(out, 'a'), ['Q4K', 'q4_k']).toThrow(/each once, got Q4K twice/);
    await bad(join(out, 'a'), [4, 'AFQ4']).toThrow(/AFQ4 twice/);
    await bad(join(out, 'a.uqff'), ['Q4K', 'Q8_0']).toThrow(/a folder for 2 types/);
    await bad(join(out, 'a.gguf'), ['Q4K']).toThrow(/ends in .uqff, or a folder/);
    await bad(join(out, 'a.uqff'), ['Q9']).toThrow(ConfigError);
    await bad(join(folder, 'a.uqff'), ['Q4K']).toThrow(/new folder or one of UQFF files/);
    const quantized = join(fixtures, 'llama', 'q4k-0.uqff');
    await expect(writeUqff(quantized, join(out, 'a.uqff'), { types: ['Q4K'] })).rejects.toThrow(/no UQFF yet/);
    // Matrices that are neither quantized here nor of a type that has a place.
    const packed = writeUqff(model('gguf_llama_legacy_mix'), join(out, 'a'), {
      types: ['Q4_0'],
      topology: { '/nothing/': { isq: 'Q8_0' } },
      mixtureQexpertsIsq: true,
    });
    await expect(packed).rejects.toThrow(UnsupportedError);
    expect(readdirSync(out)).toEqual([]);
  });
});

describe('files that are there already', () => {
  it('stay until everything is written, and give way to a shorter set', async () => {
    const folder = writeModel(SMALL, matricesOf(SMALL, 1));
    const other = writeModel(SMALL, matricesOf(SMALL, 2));
    const out = temporaryFolder();
    writeFileSync(join(out, 'mine.txt'), 'mine');
    const file = join(out, 'm.uqff');
    await writeUqff(folder, file, { types: ['Q4K'], maxShardBytes: 60_000 });
    const before = readdirSync(out).sort();
    const first = await logitsAt(join(out, 'm-0.uqff'));
    const controller = new AbortController();
    const stopped = writeUqff(other, file, {
      types: ['Q4K'],
      signal: controller.signal,
      onProgress: ({ done, total }) => done > total / 2 && controller.abort(),
    });
    await expect(stopped).rejects.toThrow(AbortError);
    expect(readdirSync(out).sort()).toEqual(before);
    expect(await logitsAt(join(out, 'm-0.uqff'))).toEqual(first);
    await writeUqff(other, file, { types: ['Q4K'] });
    expect(readdirSync(out).sort()).toEqual(
      ['config.json', 'm-0.uqff', 'mine.txt', 'residual.safetensors', 'uqff_report.json'].sort(),
    );
    expect(await logitsAt(out)).toEqual(await logitsAt(other, { isq: 'Q4K' }));
  });

  it('come back when moving fails, at whatever step', async () => {
    const platform = await detectPlatform();
    for (let failing = 0; failing < 5; failing++) {
      const folder = temporaryFolder();
      for (const name of ['a', 'b', 'old']) writeFileSync(join(folder, name), `old ${name}`);
      let moves = 0;
      const breaking: Platform = {
        ...platform,
        async rename(from, to) {
          if (moves++ === failing) throw new ConfigError('the disk is gone');
          await platform.rename(from, to);
        },
      };
      const staging = new Staging(breaking, folder);
      for (const name of ['a', 'b', 'new']) await platform.writeFile(staging.path(name), `new ${name}`);
      await expect(staging.publish(['old', 'absent'])).rejects.toThrow('the disk is gone');
      await staging.discard();
      expect(readdirSync(folder).sort()).toEqual(['a', 'b', 'old']);
      for (const name of ['a', 'b', 'old']) expect(readFileSync(join(folder, name), 'utf8')).toBe(`old ${name}`);
    }
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'old'));
    const staging = new Staging(platform, folder);
    await platform.writeFile(staging.path('new'), 'new');
    await staging.publish(['old']);
    expect(readdirSync(folder).sort()).toEqual(['new', 'old']);
  });
});
