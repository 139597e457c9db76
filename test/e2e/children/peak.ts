/** Loads a model; prints peak resident bytes before, after loading and after an answer, as JSON. */
import { loadModel } from '../../../src/index.ts';

const [spec = 'embedded', threads = '1'] = process.argv.slice(2);
/** In kilobytes on every system. */
const peak = () => process.resourceUsage().maxRSS * 1024;

const before = peak();
const model = await loadModel(spec, { device: 'cpu', threads: Number(threads) });
const loaded = peak();
await model.complete([1, 2, 3, 4, 5, 6, 7, 8], { sampling: { topK: 1, maxLen: 16, ignoreEos: true } });
const answered = peak();
await model.dispose();
console.log(JSON.stringify({ before, loaded, answered }));
