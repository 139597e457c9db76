/**
 * Loads a model of which only the first and the last layer add anything, and one of these two layers alone. Prints as
 * JSON whether they give the same logits and tokens, and what the large one took.
 */
import { loadModel, type Model } from '../../../src/index.ts';
import { type VirtualModel, virtualBytes, virtualLlama } from '../virtual.ts';

const [layerCount = '3', hidden = '1024', feedForward = '2048', threads = '2'] = process.argv.slice(2);
const count = Number(layerCount);
const base = {
  hidden: Number(hidden),
  feedForward: Number(feedForward),
  heads: Number(hidden) / 128,
  kvHeads: Math.max(1, Number(hidden) / 512),
  vocab: 1024,
  context: 512,
};
const large: VirtualModel = {
  ...base,
  layers: Array.from({ length: count }, (_, i) => ({ seed: i, silent: i > 0 && i < count - 1 })),
};
const small: VirtualModel = { ...base, layers: [large.layers[0]!, large.layers[count - 1]!] };
const prompt = [5, 900, 17, 333, 64, 2, 1000];

async function answer(model: Model): Promise<{ logits: Float32Array; tokens: number[] }> {
  const { logitsChunks } = await model.sendRawTokens(prompt);
  const { choices } = await model.complete(prompt, { sampling: { topK: 1, maxLen: 4, ignoreEos: true } });
  return { logits: await logitsChunks[0]!.toFloat32Array(), tokens: [...choices[0]!.tokenIds] };
}

const options = { device: 'cpu', threads: Number(threads) } as const;
const peak = () => process.resourceUsage().maxRSS * 1024;
const before = peak();
const started = performance.now();
const model = await loadModel(virtualLlama(large), options);
const loadedIn = performance.now() - started;
const loaded = peak();
const asked = performance.now();
const got = await answer(model);
const answeredIn = performance.now() - asked;
await model.dispose();
const reference = await loadModel(virtualLlama(small), options);
const expected = await answer(reference);
await reference.dispose();
let difference = 0;
for (let i = 0; i < got.logits.length; i++) {
  const d = Math.abs(got.logits[i]! - expected.logits[i]!);
  if (!(d <= difference)) difference = d;
}
console.log(
  JSON.stringify({
    bytes: virtualBytes(large),
    before,
    loaded,
    loadSeconds: loadedIn / 1000,
    answerSeconds: answeredIn / 1000,
    difference,
    spread: Math.max(...got.logits) - Math.min(...got.logits),
    tokens: got.tokens,
    expected: expected.tokens,
  }),
);
