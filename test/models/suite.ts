/** Every stored model on one back-end: logits and greedy tokens. */
import { existsSync, readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend } from '../../src/core/backend.ts';
import type { Prompt, Track } from './harness.ts';
import { argmax, fixtures, furthest, LoadedModel, openModel, readPrompts } from './harness.ts';

const names = readdirSync(fixtures, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name);

/** Logits of rows `[from, to)`. */
function rowsOf(logits: Float32Array, vocab: number, from: number, to: number): Float32Array {
  return logits.subarray(from * vocab, to * vocab);
}

export interface Suite {
  readonly name: string;
  /** Positions of a cache block. */
  readonly blockSize: number;
  /** Largest difference of a logit from the stored ones. */
  readonly tolerance: number;
  /** Which forms of a configuration are loaded, where a model has them. */
  readonly forms: readonly string[];
}

/** Six times the noise of float32, a quarter of the smallest mistake worth catching. */
export const EXACT = 2e-4;

/** Configurations as newer and as older versions of the reference implementation write them. */
export const BOTH_FORMS: readonly string[] = ['config.json', 'config.legacy.json'];

export function oracleSuite({ name: title, blockSize, tolerance, forms }: Suite, create: () => Promise<Backend>): void {
  describe(title, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await create();
    });
    afterAll(() => backend?.dispose());
    const cases = names.flatMap((name) =>
      forms.filter((config) => existsSync(new URL(`${name}/${config}`, fixtures))).map((config) => ({ name, config })),
    );
    const ggufs = names
      .filter((name) => existsSync(new URL(`${name}/model.gguf`, fixtures)))
      .map((name) => ({ name, config: 'metadata' }));

    describe.each([...cases, ...ggufs])('$name ($config)', ({ name, config }) => {
      let model: LoadedModel;
      let prompts: readonly Prompt[];
      beforeAll(async () => {
        const folder = new URL(`${name}/`, fixtures);
        prompts = await readPrompts(folder);
        model = await LoadedModel.load(backend, blockSize, await openModel(folder, config));
      });
      afterAll(() => model?.dispose());

      it('whole prompts', async () => {
        expect(prompts.length).toBe(2);
        for (const p of prompts) expect(furthest(await model.prefill(p.ids), p.logits)).toBeLessThan(tolerance);
      });

      it('prompts in pieces', async () => {
        for (const p of prompts) expect(furthest(await model.prefill(p.ids, 5), p.logits)).toBeLessThan(tolerance);
      });

      it('token by token', async () => {
        const p = prompts[1]!;
        expect(furthest(await model.prefill(p.ids, 1), p.logits)).toBeLessThan(tolerance);
      });

      it('greedy continuation', async () => {
        for (const p of prompts) {
          const track = model.track(p.ids);
          let row = last(model, await model.step([{ track, count: p.ids.length }]));
          for (const [i, token] of p.greedy.entries()) {
            expect(furthest(row, rowsOf(p.greedyLogits, row.length, i, i + 1))).toBeLessThan(tolerance);
            expect(argmax(row)).toBe(token);
            track.tokens.push(token);
            row = last(model, await model.step([{ track, count: 1 }]));
          }
        }
      });

      it('one sequence decodes while the other still reads its prompt', async () => {
        const [reader, writer] = prompts as readonly [Prompt, Prompt];
        const vocab = model.runner.vocabSize;
        const reading = model.track(reader.ids);
        const writing: Track = model.track(writer.ids);
        for (let step = 0; reading.computed < reader.ids.length; step++) {
          const from = reading.computed;
          const count = Math.min(6, reader.ids.length - from);
          const mine = writing.tokens.length - writing.computed;
          const logits = await model.step([
            { track: writing, count: mine },
            { track: reading, count },
          ]);
          const written = rowsOf(logits, vocab, mine - 1, mine);
          const expected = rowsOf(reader.logits, vocab, from, from + count);
          expect(furthest(written, rowsOf(writer.greedyLogits, vocab, step, step + 1))).toBeLessThan(tolerance);
          expect(furthest(rowsOf(logits, vocab, mine, mine + count), expected)).toBeLessThan(tolerance);
          writing.tokens.push(writer.greedy[step]!);
        }
      });
    });
  });
}

function last(model: LoadedModel, logits: Float32Array): Float32Array {
  return logits.slice(-model.runner.vocabSize);
}
