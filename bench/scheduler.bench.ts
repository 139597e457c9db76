/** What a step costs beside the model: choosing and packing its rows, taking its tokens, telling the readers. */
import { Engine } from '../src/core/engine/engine.ts';
import type { ModelRunner, TopLogits } from '../src/core/engine/types.ts';
import { between, now } from './sample.ts';

const VOCAB = 64;
const PROMPT_TOKENS = 500;
const TOKENS = 1500;
const ROUNDS = 3;

/** Answers at once with the same tokens: what is left is the engine's own work. */
function instantModel(): ModelRunner {
  const maxSequences = 32;
  const logits = new Float32Array(maxSequences * VOCAB).map((_, i) => Math.sin(i));
  const top: TopLogits = {
    k: 1,
    ids: new Int32Array(maxSequences).map((_, i) => i),
    values: new Float32Array(maxSequences),
  };
  return {
    ...{ vocabSize: VOCAB, contextLength: 4096, blockSize: 32, blocks: 4096, maxRows: 512, maxSequences },
    maxLogitRows: maxSequences,
    forward: (batch) => Promise.resolve(logits.subarray(0, batch.logitCount * VOCAB)),
    top: { maxK: 1, forward: () => Promise.resolve(top) },
  };
}

/** CPU milliseconds of one step in which so many sequences decode; the best of some rounds, since others use the machine too. */
export async function schedulingMs(sequences: number): Promise<number> {
  const engine = new Engine(instantModel());
  const prompt = Array.from({ length: PROMPT_TOKENS }, (_, i) => i % VOCAB);
  const round = async () => {
    const { steps } = engine.stats();
    const start = now();
    const sampling = { topK: 1, maxLen: TOKENS, ignoreEos: true };
    await Promise.all(
      Array.from({ length: sequences }, (_, i) => engine.generate({ prompt: [i, ...prompt], sampling })),
    );
    return between(start, now()).cpuMs / (engine.stats().steps - steps);
  };
  // Once for the just-in-time compiler.
  await round();
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < ROUNDS; i++) best = Math.min(best, await round());
  return best;
}
