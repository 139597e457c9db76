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
import { familyOf } from '../src/backends/cpu/linear/families.ts';
import { type Family, kernelsOf } from '../src/backends/cpu/linear/family.ts';
import { GROUP, TILE } from '../src/backends/cpu/linear/layout.ts';
import { ConstantPool } from '../src/backends/cpu/wasm/constants.ts';
import { ModuleBuilder } from '../src/backends/cpu/wasm/module.ts';
import { rowBytes, type StorageType, type StorageTypeName, storageType } from '../src/core/dtype.ts';
import { type Grouping, groupedRow, groupedType } from '../src/core/grouped.ts';
import { quantFormat } from '../src/quant/index.ts';

const flag = (name: string, fallback: string) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : (process.argv[at + 1] ?? fallback);
};
const formats = flag('formats', 'Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,F32,F16,BF16').split(',');
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
const SMALL = 0.01;
/** Block types with an f32 scale and maybe a bias in front. */
const FLOAT_SCALES = /^(AFQ|NF4|FP4|Q8_K)/;

/** Types whose rows are groups of any width; a group of 0 columns is the row. */
const GROUPED: Readonly<Record<string, Omit<Grouping, 'label' | 'indexed'>>> = {
  HQQ4: { code: 'u4', group: 64, bias: true, activationBits: 8 },
  HQQ8: { code: 'u8', group: 64, bias: true },
  GPTQ4: { code: 'u4', group: 128, bias: true },
  INT8: { code: 'i8', group: 0, bias: false },
  FP8: { code: 'e4m3', group: 0, bias: false },
  FP8_BLOCK: { code: 'e4m3', group: 128, bias: false },
};
function typeOf(format: string, columns: number): StorageType {
  const grouped = GROUPED[format];
  if (!grouped) return storageType(format as StorageTypeName);
  return groupedType({ ...grouped, label: format, group: grouped.group || columns, indexed: false }, columns);
}

const COPIED_ROWS = 2 * GROUP;

interface Case {
  readonly format: string;
  readonly family: Family;
  readonly dot: string;
  readonly n: number;
}
const pool = new ConstantPool(64, 8128);
const memory = new WebAssembly.Memory({ initial: 64, maximum: 65_536, shared: true });
const build = { bytes: 0, emitMs: 0, compileMs: 0 };
type Exported = (command: number, tid: number, nt: number) => void;

const exportName = (format: string, kernel: Kernel, dot: string) => `${format} ${kernel.name} ${dot}`;

/** The kernels of all cases for one width. */
function compile(columns: number): { readonly cases: readonly Case[]; readonly exports: WebAssembly.Exports } {
  const started = performance.now();
  const module = new ModuleBuilder({ shared: true, pool });
  const cases: Case[] = [];
  for (const format of formats) {
    for (const dot of dots) {
      const variant: Variant = { dot, fma };
      const family = familyOf(typeOf(format, columns))![1](variant);
      for (const n of tiles) cases.push({ format, family, dot, n });
      for (const kernel of [family.activation.kernel, ...kernelsOf(family)] as readonly Kernel[]) {
        module.function(
          exportName(format, kernel, dot),
          { command: 'i32', tid: 'i32', nt: 'i32' },
          (f, p) => kernel.emit(f, p.command, p.tid, p.nt, variant),
          { export: true },
        );
      }
    }
  }
  const bytes = module.finish();
  const emitted = performance.now();
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  build.bytes += bytes.length;
  build.emitMs += emitted - started;
  build.compileMs += performance.now() - emitted;
  pool.write(memory.buffer);
  return { cases, exports };
}

let words = new Int32Array(memory.buffer);
const align = (n: number) => Math.ceil(n / 128) * 128;
const cpu = () => {
  const u = process.cpuUsage();
  return u.user + u.system;
};
const median = (xs: readonly number[]) => [...xs].sort((a, b) => a - b)[xs.length >> 1]!;

/** Stored rows with random codes and small scales. */
function storedRows(type: StorageType, rows: number, columns: number): Uint8Array<ArrayBuffer> {
  const u8 = new Uint8Array(rows * rowBytes(type, columns)!);
  const view = new DataView(u8.buffer);
  if (type.blockBytes <= 4) {
    if (type.blockBytes === 4)
      for (let i = 0; i < u8.length / 4; i++) view.setFloat32(4 * i, ((i * 37) % 101) / 1000, true);
    else for (let i = 0; i < u8.length / 2; i++) view.setUint16(2 * i, SMALL_HALF + (i % 999), true);
    return u8;
  }
  for (let i = 0; i < u8.length; i++) u8[i] = Math.imul(i, 2654435761) >>> 13;
  const { grouping } = type;
  const floatsInFront = grouping ? groupedRow(grouping, columns).codes / 4 : FLOAT_SCALES.exec(type.name) ? 2 : 0;
  for (let at = 0; at < u8.length; at += type.blockBytes) {
    for (let i = 0; i < floatsInFront; i++) view.setFloat32(at + 4 * i, SMALL, true);
  }
  for (const half of grouping ? [] : (quantFormat(type.name).halves ?? [])) {
    for (let at = half; at < u8.length; at += type.blockBytes)
      view.setUint16(at, (SMALL_HALF & 0xff00) | (at & 0xff), true);
  }
  return u8;
}

interface Run {
  readonly name: string;
  readonly prepare: () => void;
  readonly once: () => void;
  readonly samples: number[];
  readonly bytes: number;
  readonly flops: number;
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
  const { cases, exports } = compile(columns);
  const call = (c: Case, kernel: Kernel, args: Readonly<Record<string, number>>) => {
    for (const [i, name] of Object.keys(kernel.fields).entries())
      words[COMMAND / 4 + COMMAND_ARGUMENTS + i] = args[name]!;
    (exports[exportName(c.format, kernel, c.dot)] as Exported)(COMMAND, 0, 1);
  };
  let next = BASE;
  const place = (size: number) => {
    const at = next;
    next = align(next + size);
    const missing = next + (1 << 20) - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65_536));
    words = new Int32Array(memory.buffer);
    return at;
  };
  const stored = place(COPIED_ROWS * columns * 4);
  const x = place(tokens * columns * 4);
  const q = place(tokens * columns * 4);
  const d = place(tokens * columns);
  const s = place(tokens * columns);
  const y = place(tokens * rows * 4);
  new Float32Array(memory.buffer, x, tokens * columns).forEach((_, i, f) => void (f[i] = ((i * 29) % 61) / 30 - 1));
  /** Repacked matrices of a format, one behind the other. */
  const weights = new Map<string, { readonly at: number; readonly size: number; readonly copies: number }>();
  const matricesOf = async (c: Case) => {
    const { format, family } = c;
    const key = `${format} ${family.groupBytes(columns)}`;
    const known = weights.get(key);
    if (known) return known;
    const type = typeOf(format, columns);
    const bytes = storedRows(type, COPIED_ROWS, columns);
    const raw = { type, rows: COPIED_ROWS, readRows: async (_: number, __: number, to: Uint8Array) => to.set(bytes) };
    const source = family.rewrite?.(raw, columns) ?? raw;
    const read = new Uint8Array(COPIED_ROWS * rowBytes(source.type, columns)!);
    await source.readRows(0, COPIED_ROWS, read);
    const some = family.groupBytes(columns) * (COPIED_ROWS / GROUP);
    const size = align((rows / GROUP) * family.groupBytes(columns));
    const copies = Math.max(1, Math.floor(streamBytes / size));
    const at = place(size * copies);
    const u8 = new Uint8Array(memory.buffer);
    u8.set(read, stored);
    call(c, family.repack as Kernel, { source: stored, target: at, groups: COPIED_ROWS / GROUP, columns });
    for (let to = some; to < size * copies; to += some)
      u8.copyWithin(at + to, at, at + Math.min(some, size * copies - to));
    const placed = { at, size, copies };
    weights.set(key, placed);
    return placed;
  };
  const runs: Run[] = [];
  for (const c of cases) {
    const { family, n } = c;
    const w = await matricesOf(c);
    const stream = n < TILE;
    const copies = stream ? w.copies : 1;
    const count = stream ? n : Math.floor(tokens / n) * n;
    const prepare = () =>
      call(c, family.activation.kernel as Kernel, { x, q, d, s, rows: count, columns, copyStride: 0 });
    const once = () => {
      for (let k = 0; k < copies; k++) {
        call(c, family.tiles[n - 1] as Kernel, {
          ...{ w: w.at + k * w.size, rows, columns, x: q, d, s, y, copyStride: 0, tiles: count / n },
          ...{ yStride: rows * 4, bias: 0, accumulate: 0, chunk: 0, counter: 0 },
        });
      }
    };
    const name = `${c.format}.${n}.${c.dot}`;
    const bytes = stream ? w.size * copies : 0;
    runs.push({ name, prepare, once, samples: [], bytes, flops: 2 * rows * columns * count * copies });
  }
  for (let round = -1; round < rounds; round++) {
    for (const run of runs) {
      run.prepare();
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
if (process.argv.includes('--json')) {
  console.log(JSON.stringify({ runtime: process.version, build, results }));
} else {
  const { bytes, emitMs, compileMs } = build;
  console.log(
    `node ${process.version}: ${bytes} bytes, emit ${emitMs.toFixed(1)} ms, compile ${compileMs.toFixed(1)} ms`,
  );
  for (const r of results) {
    const rate = r.gbps === undefined ? '' : `${r.gbps.toFixed(1).padStart(6)} GB/s`;
    const line = `${r.kernel.padEnd(14)} ${r.shape.padEnd(11)} ${r.gflops.toFixed(1).padStart(6)} GFLOP/s (best ${r.best.toFixed(1)}) ${rate}`;
    console.log(line);
  }
}
