/**
 * Micro-benchmark of the kernels without matrices: ns per element of elementwise and row kernels, and attention over a
 * cache (decode of one key head, in cache and streamed from memory; prefill in GFLOP/s of the causal half). CPU time of one
 * thread, best and median round.
 *
 *     npx esbuild bench/kernels.bench.ts --bundle --platform=node --format=esm --outfile=.cache/kernels.bench.mjs
 *     node .cache/kernels.bench.mjs [--group 3] [--dim 64] [--lengths 128,1024,4096] [--fma no] [--only attention]
 */
import { setFlagsFromString } from 'node:v8';
import type { Kernel, Variant } from '../src/backends/cpu/kernel.ts';
import { attend as attendKernels } from '../src/backends/cpu/kernels/attention/attend.ts';
import { type CacheKind, geometryOf, SEGMENT_CHUNKS } from '../src/backends/cpu/kernels/attention/layout.ts';
import { qkvStoreF32, qkvStoreI16 } from '../src/backends/cpu/kernels/attention/store.ts';
import { binaryKernels, unaryKernels } from '../src/backends/cpu/kernels/elementwise.ts';
import { gluKernels } from '../src/backends/cpu/kernels/glu.ts';
import { baseKernels } from '../src/backends/cpu/kernels/index.ts';
import { matmul, matmulTransposed } from '../src/backends/cpu/kernels/matmul.ts';
import { norm } from '../src/backends/cpu/kernels/norm.ts';
import { rope } from '../src/backends/cpu/kernels/rope.ts';
import { softmax } from '../src/backends/cpu/kernels/softmax.ts';
import { topk } from '../src/backends/cpu/kernels/topk.ts';
import { bench, DATA } from '../test/cpu/support.ts';

const flag = (name: string, fallback: string) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : (process.argv[at + 1] ?? fallback);
};
const group = Number(flag('group', '3'));
const dim = Number(flag('dim', '64'));
const lengths = flag('lengths', '128,1024,4096').split(',').map(Number);
const only = flag('only', '');
const variant: Variant = { fma: flag('fma', 'yes') === 'yes', dot: 'i16' };
const ROUNDS = 7;
const KV_HEADS = 3;
/** More than the caches hold. */
const STREAM_BYTES = 100e6;

if (process.versions.node.startsWith('20.')) setFlagsFromString('--experimental-wasm-relaxed-simd');
const b = bench(baseKernels, variant, 420 << 20);

/** Microseconds of CPU time of `run`, best and median. */
function time(run: () => void): { best: number; median: number } {
  run();
  run();
  const all = Array.from({ length: ROUNDS }, () => {
    const start = process.cpuUsage();
    run();
    const used = process.cpuUsage(start);
    return used.user + used.system;
  }).sort((x, y) => x - y);
  return { best: all[0]!, median: all[ROUNDS >> 1]! };
}

function report(name: string, us: { best: number; median: number }, per: number, unit: string, extra = ''): void {
  if (only && !name.startsWith(only)) return;
  console.log(
    `${name.padEnd(36)} ${(us.best / per).toFixed(3)} (median ${(us.median / per).toFixed(3)}) ${unit}${extra}`,
  );
}

/** `count` elements per call, in ns each. */
function perElement<K extends Kernel>(
  kernel: K,
  args: Parameters<typeof b.wasm<K>>[1],
  count: number,
  name = kernel.name,
) {
  const calls = Math.ceil(2e6 / count);
  report(
    name,
    time(() => {
      for (let i = 0; i < calls; i++) b.wasm(kernel, args);
    }),
    (calls * count) / 1e3,
    'ns/element',
  );
}

function elementwise(): void {
  const n = 1 << 14;
  for (let i = 0; i < 4 * n; i++) b.views.f32[DATA / 4 + i] = (i % 37) / 5 - 3;
  const [x, y, out] = [DATA, DATA + 4 * n, DATA + 16 * n];
  for (const kind of ['affine', 'exp', 'silu', 'gelu', 'geluTanh', 'tanh', 'log', 'sin'] as const) {
    perElement(unaryKernels[kind], { out, x, n, a: 1, b: 0 }, n);
  }
  perElement(binaryKernels.add, { out, x, y, rows: 1, width: n, yRow: 0, single: 0 }, n);
  const unused = { interleaved: 0, alpha: 0, limit: 0 };
  perElement(gluKernels.silu, { out, x, rows: 8, width: n / 8, ...unused }, n);
  perElement(gluKernels.gelu, { out, x, rows: 8, width: n / 8, ...unused }, n);
  const rms = { add: 0, weight: y, bias: 0, groups: 1, centre: 0, eps: 1e-5, plus: 0 };
  perElement(norm, { out, x, parts: 1, n: 576, divisor: 576, ...rms }, 576, 'norm, one row of 576');
  perElement(norm, { out, x, parts: 4, n: 4096, divisor: 4096, ...rms }, n, 'norm, rows of 4096');
  perElement(softmax, { out, x, mask: 0, maskRow: 0, rows: 16, width: n / 16, scale: 1 }, n);
  perElement(rope, { x: out, cosSin: x, rows: 16, heads: 16, headDim: 64, half: 32, interleaved: 0 }, n);
  const width = 49_152;
  for (let i = 0; i < width; i++) b.views.f32[x / 4 + i] = (Math.sin(i * 12.9898) * 43758.5453) % 1;
  const far = x + 4 * width;
  for (const k of [1, 40]) {
    perElement(topk, { values: far, indices: far + 1024, x, rows: 1, width, k }, width, `topk ${k} of 49152`);
  }
  const size = 256;
  const square = {
    out: x + 8 * size * size,
    a: x,
    b: x + 4 * size * size,
    batch: 1,
    aBatch: 0,
    bBatch: 0,
    outBatch: 0,
  };
  const shape = { outRow: size * 4, aRow: size * 4, aStep: 4, m: size, n: size, k: size, bias: 0 };
  for (const kernel of [matmul, matmulTransposed]) {
    const us = time(() => b.wasm(kernel, { ...square, ...shape }));
    report(`${kernel.name} ${size}³`, us, 1, 'us', `, ${((2 * size ** 3) / us.best / 1e3).toFixed(1)} GFLOP/s`);
  }
}

/** A filled cache of `copies` layers, and the arguments to attend with its last `rows` rows. */
function attentionSetup(kind: CacheKind, length: number, rows: number, copies: number) {
  let free = DATA;
  const take = (bytes: number) => {
    const at = free;
    free += Math.ceil(bytes / 128) * 128;
    return at;
  };
  const g = geometryOf(kind, dim, dim);
  const heads = KV_HEADS * group;
  const width = (heads + 2 * KV_HEADS) * dim;
  const chunks = Math.ceil(length / 32);
  const layerBytes = chunks * KV_HEADS * g.chunkBytes;
  const cache = take(layerBytes * copies);
  const scratch = take(1 << 20);
  const [qkv, q, out] = [take(length * width * 4), take(length * heads * dim * 4), take(length * heads * dim * 4)];
  const [slots, seqStart, kvLen, blockTable] = [take(length * 4), take(64), take(64), take(chunks * 4)];
  for (let i = 0; i < length * width; i++) b.views.f32[qkv / 4 + i] = ((i * 7919) % 1000) / 500 - 1;
  for (let i = 0; i < length; i++) b.views.i32[slots / 4 + i] = i;
  for (let i = 0; i < chunks; i++) b.views.i32[blockTable / 4 + i] = i;
  b.views.i32.set([0, rows], seqStart / 4);
  b.views.i32[kvLen / 4] = length;
  const inside = {
    ...{
      keySteps: g.keySteps,
      valueGroups: g.valueGroups,
      chunkBytes: g.chunkBytes,
      headStride: chunks * g.chunkBytes,
    },
    ...{ scratch, scratchStride: 0, kvHeads: KV_HEADS, headDim: dim, valueDim: dim },
  };
  const store = {
    ...{ ...inside, qkv, q, cosSin: 0, slots, rows: length, heads, half: 0, interleaved: 0, normAfterRope: 0 },
    ...{ qNorm: 0, qWeight: 0, qBias: 0, qEps: 0, qPlus: 0, kNorm: 0, kWeight: 0, kBias: 0, kEps: 0, kPlus: 0 },
  };
  const storeKernel = kind === 'f32' ? qkvStoreF32 : qkvStoreI16;
  for (let c = 0; c < copies; c++) b.wasm(storeKernel, { ...store, cache: cache + c * layerBytes });
  const attend = {
    ...{
      ...inside,
      out,
      q,
      blockTable,
      seqStart,
      kvLen,
      sinks: 0,
      partial: 0,
      sequences: 1,
      blocksPerSequence: chunks,
    },
    ...{
      chunksPerBlock: 1,
      causal: 1,
      group,
      tileRows: Math.max(1, Math.floor(32 / group)),
      segmentChunks: SEGMENT_CHUNKS,
      split: 0,
      window: 0,
    },
    ...{ scale: dim ** -0.5, softcap: 0 },
  };
  const kernel = kind === 'f32' ? attendKernels.f32 : attendKernels.i16;
  return {
    layerBytes,
    attend: (copy: number) => b.wasm(kernel, { ...attend, cache: cache + copy * layerBytes }),
    store: () => b.wasm(storeKernel, { ...store, cache }),
  };
}

function attention(): void {
  for (const kind of ['f32', 'i16'] as const) {
    for (const length of lengths) {
      const one = attentionSetup(kind, length, 1, 1);
      const calls = Math.ceil(20_000 / length);
      const cached = time(() => {
        for (let i = 0; i < calls; i++) one.attend(0);
      });
      report(`attention ${kind}, ${length} keys, cached`, cached, calls * KV_HEADS, 'us per key head');
      const copies = Math.max(2, Math.ceil(STREAM_BYTES / one.layerBytes));
      const many = attentionSetup(kind, length, 1, copies);
      const streamed = time(() => {
        for (let i = 0; i < copies; i++) many.attend(i);
      });
      const rate = (many.layerBytes * copies) / streamed.best / 1e3;
      const name = `attention ${kind}, ${length} keys, streamed`;
      report(name, streamed, copies * KV_HEADS, 'us per key head', `, ${rate.toFixed(1)} GB/s`);
    }
    const rows = 512;
    const prefill = attentionSetup(kind, rows, rows, 1);
    const us = time(() => prefill.attend(0));
    const flops = 2 * dim * KV_HEADS * group * rows * (rows + 1);
    report(`attention ${kind}, prefill of ${rows}`, us, 1, 'us', `, ${(flops / us.best / 1e3).toFixed(1)} GFLOP/s`);
    report(`attention ${kind}, store`, time(prefill.store), rows, 'us per row');
  }
}

if (only !== 'attention') elementwise();
attention();
