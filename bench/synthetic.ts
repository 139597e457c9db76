/**
 * Tramontane beside other engines on models of one shape in several formats: random weights, written for the occasion.
 *
 *     npm run bench:synthetic -- [--formats Q4_0,Q4_1,Q8_0,Q4_K,Q6_K,F16] [--hidden 2048] [--layers 8] [--heads 32]
 *                                [--kv-heads 8] [--intermediate 5632] [--out FILE] [-- OPTIONS OF bench:peers]
 *
 * A format at a time is written to the folder of temporary files, measured as `bench:peers` does, and removed.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { quantFormat } from '../src/quant/registry.ts';
import { type Summary, table } from './peers/report.ts';
import { DEFAULT_SIZES, writeSynthetic } from './syntheticModel.ts';

const root = path.dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const peers = path.join(path.dirname(fileURLToPath(import.meta.url)), 'peers/run.mjs');
const size = (n: number) => ({ type: 'string', default: String(n) }) as const;
const { values: options, positionals } = parseArgs({
  options: {
    formats: { type: 'string', default: 'Q4_0,Q4_1,Q8_0,Q4_K,Q6_K,F16' },
    vocabulary: { type: 'string', default: path.join(root, 'models/smollm2-135m-instruct-q4_1.gguf') },
    hidden: size(DEFAULT_SIZES.hidden),
    layers: size(DEFAULT_SIZES.layers),
    heads: size(DEFAULT_SIZES.heads),
    'kv-heads': size(DEFAULT_SIZES.kvHeads),
    intermediate: size(DEFAULT_SIZES.intermediate),
    out: { type: 'string' },
  },
  allowPositionals: true,
});
const sizes = {
  ...DEFAULT_SIZES,
  ...{ hidden: Number(options.hidden), layers: Number(options.layers), heads: Number(options.heads) },
  ...{ kvHeads: Number(options['kv-heads']), intermediate: Number(options.intermediate) },
};
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tramontane-'));
const all: Summary[] = [];
try {
  for (const name of options.formats.split(',')) {
    const model = path.join(folder, `${name}.gguf`);
    const out = path.join(folder, 'result.json');
    writeSynthetic(model, options.vocabulary, quantFormat(name).type.name, sizes);
    const few = ['--threads', '1', '--rounds', '2', '--decode', '32', '--batch', ''];
    const child = spawnSync(process.execPath, [peers, ...few, ...positionals, '--model', model, '--out', out], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (child.status !== 0) throw new Error(`${peers}: ended with ${child.signal ?? `status ${child.status}`}`);
    const { summary } = JSON.parse(fs.readFileSync(out, 'utf8')) as { readonly summary: readonly Summary[] };
    all.push(...summary.map((s) => ({ ...s, peer: `${name}, ${s.peer}` })));
    fs.rmSync(model);
  }
} finally {
  fs.rmSync(folder, { recursive: true });
}
console.log(table(all));
if (options.out) fs.writeFileSync(options.out, `${JSON.stringify({ sizes, summary: all }, null, 1)}\n`);
