/** Written models are files that the engine reads, answers from, and stores in the format asked for. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSynthetic } from '../../bench/syntheticModel.ts';
import { readGguf } from '../../src/core/io/gguf.ts';
import { loadModel } from '../../src/index.ts';
import { dequantize } from '../../src/quant/index.ts';

const vocabulary = fileURLToPath(new URL('../../models/smollm2-135m-instruct-q4_1.gguf', import.meta.url));
const sizes = { hidden: 256, layers: 1, heads: 4, kvHeads: 2, intermediate: 512, context: 128 };
let folder: string;
beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'synthetic-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true }));

describe.each(['Q8_0', 'Q4_K', 'F16'] as const)('a synthetic model in %s', (format) => {
  it('has matrices of that type with weights of the size asked for, and answers', async () => {
    const file = path.join(folder, `${format}.gguf`);
    writeSynthetic(file, vocabulary, format, sizes);

    const { tensors, close } = await readGguf(fs.readFileSync(file));
    const down = tensors.get('blk.0.ffn_down.weight');
    if (!down) throw new Error('no ffn_down');
    expect([down.type.name, down.shape]).toEqual([format, [256, 512]]);
    expect(tensors.get('token_embd.weight')?.shape).toEqual([49_152, 256]);
    const values = dequantize(format, await down.source.slice(down.offset, down.offset + down.bytes), 512);
    const deviation = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    expect(deviation).toBeGreaterThan(0.018);
    expect(deviation).toBeLessThan(0.022);
    await close();

    const model = await loadModel(file, { device: 'cpu', threads: 1 });
    try {
      const prompt = await model.tokenize('Once upon a time');
      expect(prompt.length).toBe(4);
      const { choices } = await model.complete(prompt, { sampling: { topK: 1, maxLen: 3, ignoreEos: true } });
      expect(choices[0]?.tokenIds).toHaveLength(3);
    } finally {
      await model.dispose();
    }
  });
});
