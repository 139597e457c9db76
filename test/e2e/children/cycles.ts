/** Loads a model, lets it answer and disposes of it, again and again; prints the bytes held after each time, as JSON. */
import { loadModel } from '../../../src/index.ts';

declare const gc: () => void;

const [spec = 'embedded', count = '10', threads = '1', maxLen = '8'] = process.argv.slice(2);

async function settle(): Promise<void> {
  for (let i = 0; i < 4; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function cycle(): Promise<void> {
  const model = await loadModel(spec, { device: 'cpu', threads: Number(threads) });
  const stream = model.streamComplete([1, 2, 3, 4, 5, 6, 7, 8], {
    sampling: { topK: 1, maxLen: Number(maxLen), ignoreEos: true },
  });
  for await (const _ of stream);
  await model.dispose();
}

const before = process.memoryUsage.rss();
const resident: number[] = [];
const heap: number[] = [];
for (let i = 0; i < Number(count); i++) {
  await cycle();
  await settle();
  const { rss, heapUsed, external } = process.memoryUsage();
  resident.push(rss);
  heap.push(heapUsed + external);
}
console.log(JSON.stringify({ before, resident, heap }));
