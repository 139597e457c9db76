import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ConfigError, type LoadOptions, loadModel, UnsupportedError } from '../../src/index.ts';
import { withImportance } from '../../src/measureImportance.ts';
import { firstInputs, logitsOf, matricesOf, relativeError, SMALL, writeModel } from './models.ts';

const cache = { pagedAttn: { cacheType: 'f32' } } as const;

describe('a text to calibrate on', () => {
  const letters = [...'abcdefghijklmnopqrstuvwxyz ,.'];
  const matrices = matricesOf(SMALL);
  const folder = writeModel(SMALL, matrices);
  writeFileSync(
    join(folder, 'tokenizer.json'),
    JSON.stringify({
      version: '1.0',
      added_tokens: [
        { id: 0, content: '<s>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
      ],
      model: { type: 'BPE', vocab: Object.fromEntries(['<s>', ...letters].map((c, i) => [c, i])), merges: [] },
    }),
  );
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ bos_token: '<s>' }));
  const content = 'the quick brown fox, they say, jumps over the lazy dog. '.repeat(11);
  const calibrationFile = new TextEncoder().encode(content);
  const load = (options: LoadOptions) => loadModel(folder, { device: 'reference', isq: 'Q2K', ...cache, ...options });

  it('is read in pieces that begin as texts do, by the model as it is stored', async () => {
    const events: unknown[] = [];
    const onProgress: LoadOptions['onProgress'] = ({ stage, ...rest }) =>
      stage === 'calibrate' && events.push([rest.done, rest.total]);
    const { imatrix } = await withImportance(folder, { device: 'reference', isq: 2, calibrationFile, onProgress });
    const found = imatrix as ReadonlyMap<string, Float32Array>;
    expect(events).toEqual([
      [1, 2],
      [2, 2],
    ]);
    expect(found.size).toBe(8);
    // The context of this model is 512: two pieces, and two calls.
    const tokens = [...content].map((c) => letters.indexOf(c) + 1);
    const rows = [0, ...tokens.slice(0, 511), 0, ...tokens.slice(511)];
    const want = firstInputs(matrices, matrices.get('model.embed_tokens.weight')!.data, rows);
    const got = found.get('model.layers.0.self_attn.q_proj')!;
    for (let c = 0; c < 256; c++) expect(Math.abs(got[c]! / (2 * want[c]!) - 1)).toBeLessThan(1e-5);
    const [a, b, plain] = [await load({ calibrationFile }), await load({ imatrix: found }), await load({})];
    const logits = await logitsOf(a);
    expect(logits).toEqual(await logitsOf(b));
    expect(relativeError(logits, await logitsOf(plain))).toBeGreaterThan(0.001);
    await Promise.all([a, b, plain].map((m) => m.dispose()));
  });

  it.each<[string, LoadOptions, RegExp]>([
    ['without a type', { isq: undefined, calibrationFile }, /expected isq too/],
    ['beside imatrix', { calibrationFile, imatrix: 'x' }, /got both/],
    ['without words', { calibrationFile: new Uint8Array(0) }, /empty/],
  ])('%s is refused', async (_name, options, message) => {
    const error = await load(options).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toMatch(message);
  });

  it('needs a tokenizer', async () => {
    const error = await loadModel(writeModel(SMALL), { device: 'reference', isq: 4, calibrationFile }).catch(
      (e: unknown) => e,
    );
    expect(error).toBeInstanceOf(UnsupportedError);
  });
});
