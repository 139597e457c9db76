/**
 * Every format that weights can be quantized to, on one thread of the CPU back-end: bytes in memory, GB/s of weights for one
 * row of activations (distinct matrices, in total larger than the caches), GFLOP/s for 1, 2, 4 and 64 rows, the preparation
 * of activations included, and what is lost. Times are CPU time, the median of rounds in which formats take turns. Errors are
 * those of products of normal weights and inputs: root of the mean square, relative to that of the products. The first is
 * the whole error, the second what remains of it when the weights are those that the format stands for.
 *
 *     npx esbuild bench/formats.bench.ts --bundle --platform=node --format=esm --outfile=.cache/formats.bench.mjs
 *     node .cache/formats.bench.mjs [--formats Q4K,AFQ4] [--size 2048] [--stream 60] [--rounds 5] [--ms 20] [--simd auto]
 */
import { createCpuBackend } from '../src/backends/cpu/index.ts';
import { type StorageType, type StorageTypeName, storageType } from '../src/core/dtype.ts';
import { groupedType } from '../src/core/grouped.ts';
import { Weight } from '../src/core/weight.ts';
import { dequantizeInto } from '../src/quant/index.ts';
import { groupingOf } from '../src/quant/isq/index.ts';
import { type PackTarget, packRows } from '../src/quant/isq/packRows.ts';
import { ISQ_TYPES, type IsqType, storedAs } from '../src/quant/isq/types.ts';

const flag = (name: string, fallback: string) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : (process.argv[at + 1] ?? fallback);
};
/** Formats that `quantize` writes and that are not made from models. */
const OTHERS: readonly StorageTypeName[] = ['IQ4_NL', 'IQ4_XS', 'NVFP4', 'NF4', 'FP4', 'F16', 'F32'];
const formats = flag('formats', [...ISQ_TYPES, ...OTHERS].join()).split(',');
const size = Number(flag('size', '2048'));
const streamBytes = Number(flag('stream', '60')) * 1e6;
const rounds = Number(flag('rounds', '5'));
const microseconds = Number(flag('ms', '20')) * 1000;
const simd = flag('simd', 'auto') as 'auto' | 'relaxed' | 'simd';
const BATCHES = [1, 2, 4, 64] as const;
/** Rows that are quantized; matrices repeat them. */
const PACKED = 128;

let state = 1;
function uniform(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return (state + 0.5) / 2 ** 32;
}
const normals = (count: number) =>
  Float32Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));

function targetOf(format: string, largest: number): { readonly type: StorageType; readonly target: PackTarget } {
  const isq = ISQ_TYPES.find((name) => name === format);
  const stored = isq ? storedAs(isq) : (format as StorageTypeName);
  if (stored !== 'GROUPED') return { type: storageType(stored), target: { kind: 'blocks', name: stored } };
  const grouping = groupingOf(isq as IsqType, size);
  const type = groupedType(grouping, size);
  if (isq === 'F8E4M3') return { type, target: { kind: 'fp8', largest, grouping } };
  return { type, target: { kind: 'hqq', bits: isq === 'HQQ4' ? 4 : 8, grouping } };
}

const backend = await createCpuBackend({ inline: true, simd });
const values = normals(PACKED * size);
const inputs = normals(BATCHES[3] * size);
const products = (w: Float32Array) =>
  Float64Array.from({ length: BATCHES[3] * PACKED }, (_, i) => {
    const [t, r] = [Math.floor(i / PACKED) * size, (i % PACKED) * size];
    let sum = 0;
    for (let k = 0; k < size; k++) sum += inputs[t + k]! * w[r + k]!;
    return sum;
  });
const rms = (a: ArrayLike<number>) => Math.sqrt(Array.from(a).reduce((n, v) => n + v * v, 0) / a.length);
const exact = products(values);
const x = backend.upload(inputs, [BATCHES[3], size]);
const y = backend.alloc([BATCHES[3], size]);

interface Measured {
  readonly name: string;
  readonly bitsPerWeight: number;
  readonly bytes: number;
  readonly lost: number;
  readonly rounded: number;
  readonly weights: readonly Weight[];
  /** By batch: microseconds for one matrix. */
  readonly samples: readonly number[][];
}

async function prepare(name: string): Promise<Measured> {
  const largest = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const { type, target } = targetOf(name, largest);
  const bytes = packRows({ from: storageType('F32'), columns: size, bytes: new Uint8Array(values.buffer), target });
  const rowBytes = bytes.length / PACKED;
  const load = async () => {
    const readRows = async (first: number, rows: number, to: Uint8Array) => {
      for (let i = 0; i < rows; i++) {
        const row = ((first + i) % PACKED) * rowBytes;
        to.set(bytes.subarray(row, row + rowBytes), i * rowBytes);
      }
    };
    const raw = { name, shape: [size, size] as const, sections: [{ type, rows: size, readRows }] };
    return new Weight(name, raw.shape, await backend.loadWeight(raw));
  };
  const first = await load();
  const copies = Math.max(1, Math.ceil(streamBytes / first.data.bytes));
  const weights = [first];
  while (weights.length < copies) weights.push(await load());
  backend.ops.linear(y, x, first, {});
  const got = await backend.read(y);
  const used = Float64Array.from(exact, (_, i) => got[Math.floor(i / PACKED) * size + (i % PACKED)]!);
  const decoded = new Float32Array(values.length);
  dequantizeInto(type, bytes, 0, decoded, 0, decoded.length);
  const kept = products(decoded);
  const scale = rms(exact);
  return {
    ...{ name, weights, bytes: first.data.bytes, bitsPerWeight: (8 * rowBytes) / size },
    lost: rms(used.map((v, i) => v - exact[i]!)) / scale,
    rounded: rms(used.map((v, i) => v - kept[i]!)) / scale,
    samples: BATCHES.map(() => []),
  };
}

/** Microseconds of CPU time for one matrix. */
async function time(m: Measured, batch: number, wanted: number): Promise<number> {
  const [rows, out] = [x.rows(0, batch), y.rows(0, batch)];
  // Prompts read a matrix that is in the cache as often as they like.
  const weights = batch === BATCHES[3] ? m.weights.slice(0, 1) : m.weights;
  const start = process.cpuUsage();
  for (let n = 1; ; n++) {
    for (const w of weights) backend.ops.linear(out, rows, w, {});
    await backend.flush();
    const { user, system } = process.cpuUsage(start);
    if (user + system >= wanted) return (user + system) / (n * weights.length);
  }
}

const measured: Measured[] = [];
for (const name of formats) measured.push(await prepare(name));
for (let round = -1; round < rounds; round++) {
  for (const m of measured) {
    for (const [i, batch] of BATCHES.entries()) {
      const us = await time(m, batch, round < 0 ? 4 * microseconds : microseconds);
      if (round >= 0) m.samples[i]!.push(us);
    }
  }
}
const median = (v: readonly number[]) => [...v].sort((a, b) => a - b)[v.length >> 1]!;
const percent = (v: number) => `${(100 * v).toPrecision(2)} %`;
console.log(`${process.version}, ${backend.info.simd} SIMD, ${size} × ${size}, one thread\n`);
console.log(
  '| format | bits per weight: stored | in memory | 1 row, GB/s | 1 row, GFLOP/s | 2 rows | 4 rows | 64 rows | error | of it by activations |',
);
console.log('|---|---|---|---|---|---|---|---|---|---|');
for (const m of measured) {
  const us = m.samples.map(median);
  const rates = BATCHES.map((batch, i) => ((2 * size * size * batch) / us[i]! / 1e3).toFixed(0));
  const inMemory = ((8 * m.bytes) / size ** 2).toFixed(2);
  const gbps = (m.bytes / us[0]! / 1e3).toFixed(1);
  const cells = [m.name, m.bitsPerWeight.toFixed(2), inMemory, gbps, ...rates, percent(m.lost), percent(m.rounded)];
  console.log(`| ${cells.join(' | ')} |`);
}
await backend.dispose();
