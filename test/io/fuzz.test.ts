import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { TramontaneError } from '../../src/core/errors.ts';
import type { Checkpoint } from '../../src/core/io/checkpoint.ts';
import { memoryFolder } from '../../src/core/io/folder.ts';
import { readGguf } from '../../src/core/io/gguf.ts';
import { parseJson } from '../../src/core/io/json.ts';
import { resolveModel } from '../../src/core/io/resolve.ts';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { parseIndex } from '../../src/core/io/shards.ts';
import { webPlatform } from '../../src/platform/web.ts';
import * as b from './build.ts';
import { mutate, mutateText, random } from './mutate.ts';

const MAX_CASE_MS = 1000;
/** Memory that one case may hold on to when it ends, and the process in all. */
const MAX_CASE_BYTES = 64e6;
const MAX_GROWTH_BYTES = 400e6;
const startRss = process.resourceUsage().maxRSS * 1024;
let total = 0;
let accepted = 0;

/** Runs `count` cases: each ends well or with a typed error, soon, and without taking much memory. */
async function fuzz(
  seed: number,
  count: number,
  attempt: (rnd: () => number, i: number) => Promise<void>,
): Promise<void> {
  const rnd = random(seed);
  let fine = 0;
  for (let i = 0; i < count; i++) {
    // The test runner hears from us now and then.
    if (i % 500 === 0) await new Promise((done) => setTimeout(done));
    const started = process.cpuUsage();
    const before = process.memoryUsage();
    try {
      await attempt(rnd, i);
      fine++;
    } catch (error) {
      if (!(error instanceof TramontaneError))
        throw new Error(`case ${i} of seed ${seed}: ${String(error)}`, { cause: error });
      expect(error.message.length, `message of case ${i} of seed ${seed}`).toBeLessThan(4000);
    }
    const after = process.memoryUsage();
    const grown = after.arrayBuffers + after.heapUsed - before.arrayBuffers - before.heapUsed;
    expect(grown, `bytes taken by case ${i} of seed ${seed}`).toBeLessThan(MAX_CASE_BYTES);
    const { user, system } = process.cpuUsage(started);
    expect((user + system) / 1000, `CPU ms of case ${i} of seed ${seed}`).toBeLessThan(MAX_CASE_MS);
  }
  total += count;
  accepted += fine;
  // Both outcomes must occur, else the mutations test nothing.
  expect(fine).toBeGreaterThan(0);
  expect(fine).toBeLessThan(count);
}

/** Everything a checkpoint promises can be read. */
async function readAll(checkpoint: Checkpoint): Promise<void> {
  for (const t of checkpoint.tensors.values()) {
    const bytes = await t.source.slice(t.offset, t.offset + t.bytes);
    if (bytes.length !== t.bytes) throw new Error(`${t.name}: ${bytes.length} bytes for ${t.bytes}`);
    const elements = t.shape.reduce((product, n) => product * n, 1);
    if ((elements / t.type.blockSize) * t.type.blockBytes !== t.bytes)
      throw new Error(`${t.name}: shape and bytes differ`);
  }
  for (const [key, value] of checkpoint.metadata)
    if (typeof key !== 'string' || value === undefined) throw new Error(key);
  await checkpoint.close();
}

const everything = b.ggufFile({
  metadata: [
    ['general.architecture', b.text('llama')],
    ['general.alignment', b.u32(32)],
    ['split.no', b.u16(0)],
    ['split.count', b.u16(1)],
    ['a', b.array(9, [b.array(8, [b.text('x'), b.text('ü')]), b.array(5, [b.i32(3)])])],
    ['b', b.bool(1)],
    ['c', b.array(10, [b.u64(2n ** 60n), b.u64(1n)])],
    ['d', b.array(7, [b.bool(0), b.bool(1)])],
    ['e', b.f64(0.5)],
    [
      'f',
      b.array(
        6,
        Array.from({ length: 20 }, (_, i) => b.f32(i)),
      ),
    ],
    [
      'tokens',
      b.array(
        8,
        Array.from({ length: 40 }, (_, i) => b.text(`tok${i}ä`)),
      ),
    ],
  ],
  tensors: [
    { name: 'a.weight', dims: [32, 3], type: 2, data: new Uint8Array(54) },
    { name: 'b.weight', dims: [4, 2, 2], data: new Uint8Array(64) },
    { name: 'c.weight', dims: [256], type: 14, data: new Uint8Array(210) },
    { name: 'd', dims: [1], type: 30, data: new Uint8Array(2) },
  ],
});
const published = new Uint8Array(readFileSync(b.fixture('gemma2_q8_0.gguf')));
const writer = new Uint8Array(readFileSync(b.fixture('writer.safetensors')));
const config = readFileSync(b.fixture('gpt_oss_mxfp4.config.json'), 'utf8');
const tokenizer = JSON.stringify({
  version: '1.0',
  added_tokens: [{ id: 0, content: '<s>', special: true }],
  normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }] },
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false },
  model: { type: 'BPE', vocab: { '<s>': 0, a: 1, Ġb: 2, 'a Ġb': 3 }, merges: [['a', 'Ġb'], 'a Ġb'] },
});
const index = JSON.stringify({
  metadata: { total_size: 8 },
  weight_map: { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' },
});

describe('damaged files', () => {
  afterAll(() => {
    expect(total).toBeGreaterThanOrEqual(20_000);
    expect(accepted).toBeGreaterThan(500);
    expect(process.resourceUsage().maxRSS * 1024 - startRss).toBeLessThan(MAX_GROWTH_BYTES);
  });

  it('GGUF with every kind of value', () =>
    fuzz(1, 9000, async (rnd) => readAll(await readGguf(mutate(rnd, everything, everything.length, published)))));

  it('GGUF as published', () =>
    fuzz(2, 3000, async (rnd) => readAll(await readGguf(mutate(rnd, published, 14_000, everything)))));

  it('safetensors', () =>
    fuzz(3, 5000, async (rnd) => readAll(await readSafetensors(mutate(rnd, writer, writer.length, everything)))));

  it('safetensors headers', () => {
    const length = Number(new DataView(writer.buffer, writer.byteOffset).getBigUint64(0, true));
    const header = new TextDecoder().decode(writer.subarray(8, 8 + length));
    return fuzz(4, 3000, async (rnd) =>
      readAll(await readSafetensors(b.safetensorsFile(mutateText(rnd, header), 371))),
    );
  });

  it('index files', () => fuzz(5, 1500, async (rnd) => void parseIndex(mutateText(rnd, index), 'index')));

  it('configurations and tokenizers', () =>
    fuzz(6, 4000, async (rnd, i) => {
      const value = parseJson(mutateText(rnd, i % 2 ? config : tokenizer), { name: 'x.json' });
      // Deep enough to break a reader that recurses would be a mistake of ours.
      JSON.stringify(value);
    }));

  it('whole folders', () => {
    const shard = (name: string): Uint8Array =>
      b.safetensorsFile({ [name]: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } }, 4);
    const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
    return fuzz(7, 1500, async (rnd, i) => {
      const files: Record<string, Uint8Array> = {
        'config.json': encode(i % 5 === 0 ? mutateText(rnd, config) : config),
        'tokenizer.json': encode(i % 5 === 1 ? mutateText(rnd, tokenizer) : tokenizer),
        'tokenizer_config.json': encode(i % 5 === 2 ? mutateText(rnd, '{"chat_template":"x"}') : '{}'),
        'model.safetensors.index.json': encode(i % 5 === 3 ? mutateText(rnd, index) : index),
        'model-00001-of-00002.safetensors': i % 5 === 4 ? mutate(rnd, shard('a'), 80, writer) : shard('a'),
        'model-00002-of-00002.safetensors': shard('b'),
      };
      const model = await resolveModel(memoryFolder('folder', files), { platform: webPlatform() });
      await model.config();
      await model.tokenizerJson();
      await model.chatTemplate();
      await readAll(model.checkpoint);
    });
  });
});
