/**
 * Micro-benchmark of the matrix kernels: GB/s of weights for a few tokens on streamed weights (distinct matrices, in total
 * larger than the caches), GFLOP/s for tiles of four tokens on one cached matrix. Times are CPU time of one thread; the
 * cases take turns, and each reports its best and its median round.
 *
 *     npx esbuild bench/ops.bench.ts --bundle --platform=node --format=esm --outfile=.cache/ops.bench.mjs
 *     node .cache/ops.bench.mjs [--formats Q4_1,Q8_0] [--shapes 1536x576,4096x4096] [--dots i16,i32,simd] [--tiles 1,4] [--json]
 */
import { setFlagsFromString } from 'node:v8';
import { COMMAND_ARGUMENTS, type Kernel, type Variant } from '../src/backends/cpu/kernel.ts';
import { FAMILIES } from '../src/backends/cpu/linear/families.ts';
import { type Family, kernelsOf } from '../src/backends/cpu/linear/family.ts';
import { GROUP, TILE } from '../src/backends/cpu/linear/layout.ts';
import { ConstantPool } from '../src/backends/cpu/wasm/constants.ts';
import { ModuleBuilder } from '../src/backends/cpu/wasm/module.ts';
import { rowBytes, STORAGE_TYPES, type StorageTypeName } from '../src/core/dtype.ts';
import { quantFormat } from '../src/quant/index.ts';

const flag = (name: string, fallback: string) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : (process.argv[at + 1] ?? fallback);
};
const formats = flag('formats', 'Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,F32,F16,BF16').split(',') as StorageTypeName[];
const shapes = flag('shapes', '1536x576,4096x4096')
  .split(',')
  .map((s) => s.split('x').map(Number) as [number, number]);
const dots = flag('dots', 'i16').split(',') as Variant['dot'][];
const tiles = flag('tiles', '1,2,3,4').split(',').map(Number);
const streamBytes = Number(flag('stream', '120')) * 1e6;
const tokens = Number(flag('tokens', '48'));
const rounds = Number(flag('rounds', '7'));
const milliseconds = Number(flag('ms', '12'));
const fma = flag('fma', 'yes') === 'yes';

if (process.versions.node.startsWith('20.')) setFlagsFromString('--experimental-wasm-relaxed-simd');

const COMMAND = 16_384;
const BASE = 65_536;
const SMALL_HALF = 0x1c00;

interface Case {
  readonly family: Family;
  readonly n: number;
  readonly name: string;
}
const pool = new ConstantPool(64, 8128);
const module = new ModuleBuilder({ shared: true, pool });
const cases: Case[] = [];
const emitStart = performance.now();
for (const format of formats) {
  for (const dot of dots) {
    const variant: Variant = { dot, fma };
    const family = FAMILIES.get(format)!(variant);
    for (const n of tiles) cases.push({ family, n, name: `${format}.${n}.${dot}` });
    for (const kernel of kernelsOf(family)) {
      module.function(
        `${kernel.name}.${dot}`,
        { command: 'i32', tid: 'i32', nt: 'i32' },
        (f, p) => kernel.emit(f, p.command, p.tid, p.nt, variant),
        { export: true },
      );
    }
  }
}
const bytes = module.finish();
const compileStart = performance.now();
const memory = new WebAssembly.Memory({ initial: 64, maximum: 65_536, shared: true });
const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
const compileEnd = performance.now();
pool.write(memory.buffer);
let words = new Int32Array(memory.buffer);

const align = (n: number) => Math.ceil(n / 128) * 128;
const cpu = () => {
  const u = process.cpuUsage();
  return u.user + u.system;
};
const median = (xs: readonly number[]) => [...xs].sort((a, b) => a - b)[xs.length >> 1]!;
function call(kernel: Kernel, dot: string, args: Readonly<Record<string, number>>): void {
  for (const [i, name] of Object.keys(kernel.fields).entries())
    words[COMMAND / 4 + COMMAND_ARGUMENTS + i] = args[name]!;
  (exports[`${kernel.name}.${dot}`] as (command: number, tid: number, nt: number) => void)(COMMAND, 0, 1);
}

/** Stored rows with random codes and small scales. */
function fillStored(format: string, at: number, size: number): void {
  const u8 = new Uint8Array(memory.buffer, at, size);
  const { blockBytes } = STORAGE_TYPES.get(format)!;
  if (blockBytes <= 4) {
    const values = new Float32Array(memory.buffer, at, size / 4);
    for (let i = 0; i < values.length; i++) values[i] = ((i * 37) % 101) / 1000;
    if (blockBytes === 2)
      new Uint16Array(memory.buffer, at, size / 2).forEach((_, i, u) => void (u[i] = SMALL_HALF + (i % 999)));
    return;
  }
  for (let i = 0; i < size; i++) u8[i] = Math.imul(i, 2654435761) >>> 13;
  for (const half of quantFormat(format).halves ?? []) {
    for (let b = half; b < size; b += blockBytes) {
      u8[b] = b;
      u8[b + 1] = SMALL_HALF >> 8;
    }
  }
}

interface Row {
  readonly kernel: string;
  readonly shape: string;
  readonly gbps: number | undefined;
  readonly gflops: number;
  readonly best: number;
}
const results: Row[] = [];
for (const [rows, columns] of shapes) {
  let next = BASE;
  const place = (size: number) => {
    const at = next;
    next = align(next + size);
    const missing = next + (1 << 20) - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65_536));
    words = new Int32Array(memory.buffer);
    return at;
  };
  const stored = place(rows * columns * 4);
  const x = place(tokens * columns * 4);
  const d = place(tokens * columns);
  const s = place(tokens * columns);
  const y = place(tokens * rows * 4);
  new Uint8Array(memory.buffer, x, tokens * columns * 4).forEach((_, i, u) => void (u[i] = (i * 29) % 61));
  new Float32Array(memory.buffer, d, (s - d) / 4).fill(2 ** 89);
  new Float32Array(memory.buffer, s, (y - s) / 4).fill(2 ** 70);
  const weights = new Map<string, { at: number; size: number; copies: number }>();
  const runs = cases.map(({ family, n, name }) => {
    const dot = name.split('.')[2]!;
    let w = weights.get(family.format);
    if (!w) {
      const size = align((rows / GROUP) * family.groupBytes(columns));
      const copies = Math.max(1, Math.floor(streamBytes / size));
      const at = place(size * copies);
      fillStored(family.format, stored, rows * rowBytes(STORAGE_TYPES.get(family.format)!, columns)!);
      call(family.repack as Kernel, dot, { source: stored, target: at, groups: rows / GROUP, columns });
      const u8 = new Uint8Array(memory.buffer);
      for (let k = 1; k < copies; k++) u8.copyWithin(at + k * size, at, at + size);
      w = { at, size, copies };
      weights.set(family.format, w);
    }
    const { at, size } = w;
    const stream = n < TILE;
    const copies = stream ? w.copies : 1;
    const count = stream ? n : Math.floor(tokens / n) * n;
    const once = () => {
      for (let k = 0; k < copies; k++) {
        call(family.tiles[n - 1] as Kernel, dot, {
          ...{ w: at + k * size, rows, columns, x, d, s, y, copyStride: 0, tiles: count / n },
          ...{ yStride: rows * 4, bias: 0, accumulate: 0, chunk: 0, counter: 0 },
        });
      }
    };
    const samples: number[] = [];
    return { name, once, samples, bytes: stream ? size * copies : 0, flops: 2 * rows * columns * count * copies };
  });
  for (let round = -1; round < rounds; round++) {
    for (const run of runs) {
      const wanted = round < 0 ? 120_000 : milliseconds * 1000;
      const start = cpu();
      let n = 0;
      do {
        run.once();
        n++;
      } while (cpu() - start < wanted);
      if (round >= 0) run.samples.push((cpu() - start) / n);
    }
  }
  for (const run of runs) {
    const us = median(run.samples);
    results.push({
      kernel: run.name,
      shape: `${rows}x${columns}`,
      gbps: run.bytes ? run.bytes / us / 1e3 : undefined,
      gflops: run.flops / us / 1e3,
      best: run.flops / Math.min(...run.samples) / 1e3,
    });
  }
}
const build = { bytes: bytes.length, emitMs: compileStart - emitStart, compileMs: compileEnd - compileStart };
if (process.argv.includes('--json')) {
  console.log(JSON.stringify({ runtime: process.version, build, results }));
} else {
  const { emitMs, compileMs } = build;
  console.log(
    `node ${process.version}: ${bytes.length} bytes, emit ${emitMs.toFixed(1)} ms, compile ${compileMs.toFixed(1)} ms`,
  );
  for (const r of results) {
    const rate = r.gbps === undefined ? '' : `${r.gbps.toFixed(1).padStart(6)} GB/s`;
    const line = `${r.kernel.padEnd(14)} ${r.shape.padEnd(11)} ${r.gflops.toFixed(1).padStart(6)} GFLOP/s (best ${r.best.toFixed(1)}) ${rate}`;
    console.log(line);
  }
}
