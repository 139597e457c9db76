/**
 * The WebGPU back-end on models of published shapes with random weights: tokens a second, and which share of what the
 * adapter can read and compute that is.
 *
 *     npm run bench:webgpu -- [--shapes 1B,8B] [--formats Q4_0,Q4_K,F16] [--prompt 512] [--decode 64] [--adapter NAME]
 *                             [--layers N] [--strict] [--profile] [--out FILE]
 *
 * `--layers` shortens the models, for adapters that are slow; `--strict` multiplies 32-bit floats where prompts would go
 * through 8-bit integers; `--profile` adds the time of each kernel.
 */
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import { createWebGpuBackend, type KernelTime, type WebGpuBackend } from '../src/backends/webgpu/index.ts';
import { Engine } from '../src/core/engine/engine.ts';
import { DecoderRunner } from '../src/core/runner.ts';
import { Weights } from '../src/core/weights.ts';
import { buildDecoder } from '../src/models/arch.ts';
import { archOf } from '../src/models/registry.ts';
import { nodeGpu } from '../src/platform/nodeGpu.ts';
import { dequantizeInto } from '../src/quant/index.ts';
import { quantFormat } from '../src/quant/registry.ts';
import { syntheticLlama } from './syntheticSource.ts';
import { peaksOf } from './webgpuPeaks.ts';

const SHAPES: Readonly<Record<string, Parameters<typeof syntheticLlama>[0]>> = {
  tiny: { hidden: 256, layers: 2, heads: 8, kvHeads: 4, intermediate: 768, context: 4096, vocab: 4096 },
  '1B': { hidden: 2048, layers: 16, heads: 32, kvHeads: 8, intermediate: 8192, context: 8192, vocab: 32_000 },
  '8B': { hidden: 4096, layers: 32, heads: 32, kvHeads: 8, intermediate: 14_336, context: 8192, vocab: 128_256 },
};
const BLOCK = 32;
const ROUNDS = 3;

interface Row {
  readonly shape: string;
  readonly format: string;
  readonly load_s: number;
  readonly decode_tps: number;
  readonly bandwidth_share: number;
  readonly decode4_tps: number;
  readonly prefill_tps: number;
  readonly math_share: number;
  readonly submits_per_token: number;
  readonly profile?: { readonly decode: readonly KernelTime[]; readonly prefill: readonly KernelTime[] };
}

const { values: flags } = parseArgs({
  options: {
    shapes: { type: 'string', default: '1B,8B' },
    formats: { type: 'string', default: 'Q4_0,Q4_K,F16' },
    prompt: { type: 'string', default: '512' },
    decode: { type: 'string', default: '64' },
    adapter: { type: 'string' },
    layers: { type: 'string' },
    strict: { type: 'boolean', default: false },
    profile: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
});
const promptLength = Number(flags.prompt);
const decodeLength = Number(flags.decode);

const median = (list: readonly number[]) => [...list].sort((a, b) => a - b)[list.length >> 1] as number;
const prompt = (length: number, seed: number, vocab: number) =>
  Uint32Array.from({ length }, (_, i) => (Math.imul(i + seed, 2654435761) >>> 8) % vocab);

async function open(): Promise<WebGpuBackend> {
  const gpu = (await nodeGpu()) as GPU | undefined;
  return createWebGpuBackend({ gpu, adapter: flags.adapter, strict: flags.strict });
}

async function measure(shape: string, format: string, peaks: Awaited<ReturnType<typeof peaksOf>>): Promise<Row> {
  const given = SHAPES[shape];
  if (given === undefined) throw new Error(`shape: expected one of ${Object.keys(SHAPES)}, got ${shape}`);
  const sizes = flags.layers ? { ...given, layers: Number(flags.layers) } : given;
  const backend = await open();
  const model = syntheticLlama(sizes, quantFormat(format).type);
  const arch = await archOf(model.config);
  const weights = Weights.open({ backend, source: model.source, codec: { dequantizeInto } });
  const decoder = buildDecoder(arch, weights, arch.config(model.config));
  const started = performance.now();
  await weights.load();
  const load_s = (performance.now() - started) / 1000;
  const maxBlocks = Math.ceil((promptLength + decodeLength + 64) / BLOCK);
  const caches = decoder.caches.map((c) => ({ ...c, dtype: 'f16' as const }));
  const runner = new DecoderRunner(
    backend,
    { ...decoder, caches },
    { blocks: 4 * maxBlocks, blockSize: BLOCK, maxRows: 512, maxSequences: 4, maxBlocks },
  );
  const engine = new Engine(runner, { maxNumSeqs: 4, prefixCache: false });
  const greedy = (maxLen: number) => ({ topK: 1, maxLen });
  const generate = async (length: number, count: number, seed: number) => {
    const stream = engine.submit({ prompt: prompt(length, seed, sizes.vocab), sampling: greedy(count) });
    let first = 0;
    let last = 0;
    let tokens = 0;
    for await (const event of stream) {
      if (event.kind !== 'token') continue;
      last = performance.now();
      if (tokens++ === 0) first = last;
    }
    return { first, rate: ((tokens - 1) / (last - first)) * 1000 };
  };
  try {
    await generate(promptLength, 4, 1);
    const decode: number[] = [];
    const decode4: number[] = [];
    const prefill: number[] = [];
    let submits = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const before = backend.counters.submits;
      decode.push((await generate(16, decodeLength, round)).rate);
      submits = (backend.counters.submits - before) / decodeLength;
      decode4.push(
        (await Promise.all([1, 2, 3, 4].map((i) => generate(16, decodeLength, round + 9 * i)))).reduce(
          (n, r) => n + r.rate,
          0,
        ),
      );
      const start = performance.now();
      prefill.push((promptLength / ((await generate(promptLength, 1, 7 + round)).first - start)) * 1000);
    }
    const decode_tps = median(decode);
    const prefill_tps = median(prefill);
    const row: Row = {
      ...{ shape, format, load_s, decode_tps, decode4_tps: median(decode4), prefill_tps, submits_per_token: submits },
      bandwidth_share: (model.matrixBytes * decode_tps) / peaks.bytesPerSecond,
      math_share: (model.multiplyAdds * prefill_tps) / peaks.f16PerSecond,
    };
    if (!flags.profile) return row;
    const timed = (length: number, count: number) =>
      backend.profile(async () => void (await generate(length, count, 3)));
    return { ...row, profile: { decode: await timed(1, 4), prefill: await timed(promptLength, 1) } };
  } finally {
    await engine.dispose();
    runner.dispose();
    weights.dispose();
    await backend.dispose();
  }
}

const probe = await open();
const { facts } = probe.gpu;
const peaks = await peaksOf(probe.gpu);
await probe.dispose();
const giga = (n: number) => (n / 1e9).toFixed(0);
console.log(
  `${facts.name}: reads ${giga(peaks.bytesPerSecond)} GB/s, ${giga(2 * peaks.f32PerSecond)} GFLOP/s in f32, ${giga(2 * peaks.f16PerSecond)} in f16`,
);
const rows: Row[] = [];
for (const shape of flags.shapes.split(',')) {
  for (const format of flags.formats.split(',')) {
    const row = await measure(shape, format, peaks);
    rows.push(row);
    const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
    console.log(
      `| ${shape} | ${format} | ${row.decode_tps.toFixed(1)} | ${percent(row.bandwidth_share)} | ${row.decode4_tps.toFixed(1)} | ${row.prefill_tps.toFixed(0)} | ${percent(row.math_share)} | ${row.load_s.toFixed(1)} | ${row.submits_per_token.toFixed(2)} |`,
    );
    for (const [phase, times] of Object.entries(row.profile ?? {})) {
      for (const t of times.slice(0, 12)) console.log(`  ${phase}: ${t.ms.toFixed(3)} ms in ${t.count} × ${t.label}`);
    }
  }
}
if (flags.out) fs.writeFileSync(flags.out, `${JSON.stringify({ adapter: facts, peaks, rows }, null, 1)}\n`);
