/**
 * Kernel micro-benchmark: GB/s of weights for one token on streamed weights (distinct matrices totalling more than the
 * caches), GFLOP/s for four-token tiles on one cached matrix. Times are CPU time of one thread; A and B alternate.
 *
 *     npx esbuild bench/ops.bench.ts --bundle --platform=node --format=esm --outfile=.cache/ops.bench.mjs
 *     node .cache/ops.bench.mjs [--formats Q4_1,Q8_0] [--shapes 1536x576,4096x4096] [--dots i16,i32,simd] [--json]
 */
import { setFlagsFromString } from 'node:v8';
import { COMMAND_ARGUMENTS, type Kernel, type Variant } from '../src/backends/cpu/kernel.ts';
import { activationOf, BLOCK32_FORMATS, offsetsOf } from '../src/backends/cpu/linear/block32.ts';
import { ACTIVATION_BYTES, ACTIVATION_SCALE, BLOCK, GROUP, TILE } from '../src/backends/cpu/linear/layout.ts';
import { type TileKernel, tileKernel } from '../src/backends/cpu/linear/tile.ts';
import { ConstantPool } from '../src/backends/cpu/wasm/constants.ts';
import { ModuleBuilder } from '../src/backends/cpu/wasm/module.ts';

const flag = (name: string, fallback: string) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : (process.argv[at + 1] ?? fallback);
};
const formats = flag('formats', BLOCK32_FORMATS.map((f) => f.name).join()).split(',');
const shapes = flag('shapes', '1536x576,4096x4096')
  .split(',')
  .map((s) => s.split('x').map(Number) as [number, number]);
const dots = flag('dots', 'i16,i32,simd').split(',') as Variant['dot'][];
const tiles = flag('tiles', '1,2,3,4').split(',').map(Number);
const streamBytes = Number(flag('stream', '120')) * 1e6;
const tokens = Number(flag('tokens', '48'));
const repetitions = Number(flag('reps', '7'));
const fma = flag('fma', 'yes') === 'yes';

if (process.versions.node.startsWith('20.')) setFlagsFromString('--experimental-wasm-relaxed-simd');

const COMMAND = 8192;
const BASE = 65_536;
const pool = new ConstantPool(16, 4096);
const module = new ModuleBuilder({ shared: true, pool });
interface Case {
  readonly format: (typeof BLOCK32_FORMATS)[number];
  readonly variant: Variant;
  readonly n: number;
  readonly kernel: TileKernel;
  readonly name: string;
}
const cases: Case[] = [];
for (const format of BLOCK32_FORMATS.filter((f) => formats.includes(f.name))) {
  for (const dot of dots) {
    if (format.bits === 8 && dot !== dots.at(-1)) continue;
    for (const n of tiles) {
      const variant: Variant = { dot, fma };
      const kernel = tileKernel(format, n);
      const name = `${kernel.name}.${format.bits === 8 ? 'i16x8' : dot}`;
      cases.push({ format, variant, n, kernel, name });
    }
  }
}
const emitStart = performance.now();
for (const c of cases) {
  module.function(
    c.name,
    { command: 'i32', tid: 'i32', nt: 'i32' },
    (f, p) => c.kernel.emit(f, p.command, p.tid, p.nt, c.variant),
    { export: true },
  );
}
const bytes = module.finish();
const compileStart = performance.now();
const memory = new WebAssembly.Memory({ initial: 8192, maximum: 65_536, shared: true });
const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
const compileEnd = performance.now();
pool.write(memory.buffer);
const words = new Int32Array(memory.buffer);

function encode(kernel: Kernel, args: Record<string, number>): void {
  for (const [i, name] of Object.keys(kernel.fields).entries())
    words[COMMAND / 4 + COMMAND_ARGUMENTS + i] = args[name]!;
}
const align = (n: number) => Math.ceil(n / 128) * 128;
const cpu = () => {
  const u = process.cpuUsage();
  return u.user + u.system;
};
const median = (xs: number[]) => [...xs].sort((a, b) => a - b)[xs.length >> 1]!;

interface Row {
  readonly kernel: string;
  readonly shape: string;
  readonly gbps: number | undefined;
  readonly gflops: number;
}
const results: Row[] = [];
for (const [rows, columns] of shapes) {
  const runs = cases.map((c) => {
    const blocks = columns / BLOCK;
    const size = align((rows / GROUP) * blocks * offsetsOf(c.format).bytes);
    const stream = c.n < TILE;
    const copies = stream ? Math.max(1, Math.floor(streamBytes / size)) : 1;
    const width = ACTIVATION_BYTES[activationOf(c.format, c.variant)];
    const count = stream ? c.n : Math.floor(tokens / c.n) * c.n;
    const x = BASE;
    const d = align(x + count * columns * width);
    const s = align(d + count * blocks * 4);
    const y = align(s + count * blocks * 4);
    const w = align(y + count * rows * 4);
    const end = w + copies * size;
    if (end > memory.buffer.byteLength) memory.grow(Math.ceil((end - memory.buffer.byteLength) / 65_536));
    const fill = () => {
      const u8 = new Uint8Array(memory.buffer);
      for (let i = w; i < w + size; i++) u8[i] = Math.imul(i, 2654435761) >>> 13;
      const u16 = new Uint16Array(memory.buffer);
      for (let b = 0; b < (rows / GROUP) * blocks; b++) {
        for (let i = 0; i < (c.format.minimum ? 16 : 8); i++)
          u16[(w + b * offsetsOf(c.format).bytes) / 2 + i] = 0x1400 + i * 37;
      }
      for (let k = 1; k < copies; k++) u8.copyWithin(w + k * size, w, w + size);
      for (let i = x; i < d; i++) u8[i] = (Math.imul(i, 40503) >>> 7) % 255;
      new Float32Array(memory.buffer, d, (y - d) / 4).fill(0.01 * ACTIVATION_SCALE);
    };
    const call = exports[c.name] as (command: number, tid: number, nt: number) => void;
    const once = () => {
      for (let k = 0; k < copies; k++) {
        encode(c.kernel, {
          ...{ w: w + k * size, rows, columns, x, d, s, y, copyStride: 0, tiles: count / c.n },
          ...{ yStride: rows * 4, bias: 0, accumulate: 0 },
        });
        call(COMMAND, 0, 1);
      }
    };
    return { c, size, copies, count, fill, once, stream };
  });
  for (const run of runs) {
    run.fill();
    const start = performance.now();
    while (performance.now() - start < 150) run.once();
    const samples: number[] = [];
    for (let r = 0; r < repetitions; r++) {
      const t = cpu();
      let n = 0;
      while (cpu() - t < 12_000) {
        run.once();
        n++;
      }
      samples.push((cpu() - t) / n);
    }
    const us = median(samples);
    results.push({
      kernel: run.c.name,
      shape: `${rows}x${columns}`,
      gbps: run.stream ? (run.size * run.copies) / us / 1e3 : undefined,
      gflops: (2 * rows * columns * run.count * run.copies) / us / 1e3,
    });
  }
}
const build = {
  kernels: cases.length,
  bytes: bytes.length,
  emitMs: compileStart - emitStart,
  compileMs: compileEnd - compileStart,
};
if (process.argv.includes('--json')) {
  console.log(JSON.stringify({ runtime: process.version, build, results }));
} else {
  console.log(
    `node ${process.version}, ${build.kernels} kernels, ${build.bytes} bytes, emit ${build.emitMs.toFixed(1)} ms, compile ${build.compileMs.toFixed(1)} ms`,
  );
  for (const r of results) {
    console.log(
      `${r.kernel.padEnd(28)} ${r.shape.padEnd(11)} ${r.gflops.toFixed(1).padStart(6)} GFLOP/s ${r.gbps === undefined ? '' : `${r.gbps.toFixed(1).padStart(6)} GB/s`}`,
    );
  }
}
