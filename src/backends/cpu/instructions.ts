import { bundle } from './bundle.ts';
import { COMMAND_ARGUMENTS, type Kernel, type Variant, viewsOf } from './kernel.ts';
import { activationOf, BLOCK32_FORMATS, type Block32 } from './linear/block32.ts';
import { BLOCK, TILE } from './linear/layout.ts';
import { quantizeI8, quantizeI16 } from './linear/quantize.ts';
import { repackKernel, storedOffsets } from './linear/repack.ts';
import { tileKernel } from './linear/tile.ts';
import { POOL_BASE, POOL_BYTES } from './memoryMap.ts';
import { ConstantPool } from './wasm/constants.ts';
import { ModuleBuilder } from './wasm/module.ts';
import { i16x8, i32, i32x4, v128 } from './wasm/ops.ts';
import { nodeModule } from './worker.ts';

export interface Choice {
  readonly level: 'relaxed' | 'simd' | 'off';
  readonly variant: Variant;
  readonly reason: string;
}

const PLAIN: Variant = { fma: false, dot: 'simd' };

/**
 * Finds the best instructions that work here. Each candidate computes a small product whose right result is known from
 * the twins, extreme codes included: engines exist that accept an instruction and compute it wrongly. Between the two
 * relaxed dot products, which depend on the processor, a timing of a millisecond decides.
 */
export async function chooseInstructions(simd: 'auto' | 'relaxed' | 'simd' | 'off', strict: boolean): Promise<Choice> {
  if (simd === 'off') return { level: 'off', variant: PLAIN, reason: 'asked for' };
  if (typeof WebAssembly === 'undefined' || !WebAssembly.validate(dotProbe('simd')) || !works(PLAIN)) {
    return { level: 'off', variant: PLAIN, reason: 'the engine has no working SIMD' };
  }
  if (simd === 'simd') return { level: 'simd', variant: PLAIN, reason: 'asked for' };
  await allowRelaxedSimd();
  const fma = !strict;
  const dots = (['i16', 'i32'] as const).filter((dot) => WebAssembly.validate(dotProbe(dot)) && works({ fma, dot }));
  if (!dots.length) return { level: 'simd', variant: PLAIN, reason: 'the engine has no working relaxed SIMD' };
  const dot = dots.length === 1 ? dots[0]! : timeDot('i16') <= timeDot('i32') ? 'i16' : 'i32';
  const only = dots.length === 1 ? 'the only one that computes right' : 'the faster one';
  return { level: 'relaxed', variant: { fma, dot }, reason: `dot product of ${dot} sums: ${only}` };
}

/** Node 20 has relaxed SIMD behind a flag; every later engine has it without. */
async function allowRelaxedSimd(): Promise<void> {
  if (WebAssembly.validate(dotProbe('i16'))) return;
  try {
    const v8 = await nodeModule<{ setFlagsFromString(flag: string): void }>('node:v8');
    v8.setFlagsFromString('--experimental-wasm-relaxed-simd');
  } catch {
    // Not Node: nothing to switch on.
  }
}

const DOTS_PER_LOOP = 16;
const ACCUMULATORS = 4;

/** A module with a loop of `DOTS_PER_LOOP` dot products. */
function dotProbe(dot: Variant['dot']): Uint8Array<ArrayBuffer> {
  const m = new ModuleBuilder({ shared: false });
  m.function(
    'loop',
    { count: 'i32' },
    (f, { count }) => {
      const sums = f.v128s('sum', ACCUMULATORS);
      const x = f.v128('x', v128.load(0));
      const w = f.v128('w', v128.load(16));
      f.doWhile(
        () => {
          for (let i = 0; i < DOTS_PER_LOOP; i++) {
            const sum = sums[i % ACCUMULATORS]!;
            if (dot === 'i16') sum.set(i16x8.add(sum, i16x8.relaxedDotI8x16I7x16S(x, w)));
            else if (dot === 'i32') sum.set(i32x4.relaxedDotI8x16I7x16AddS(x, w, sum));
            else sum.set(i32x4.add(sum, i32x4.dotI16x8S(x, w)));
          }
        },
        count.tee(i32.sub(count, 1)),
      );
      for (const [i, sum] of sums.entries()) f.v128Store(32 + 16 * i, sum);
    },
    { export: true },
  );
  return m.finish();
}

const TIMED_LOOPS = 20_000;
const TIMINGS = 3;

/** Milliseconds of the same number of dot products, best of a few. */
function timeDot(dot: Variant['dot']): number {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(dotProbe(dot)), { env: { memory } });
  const loop = exports['loop'] as (count: number) => void;
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < TIMINGS; i++) {
    const start = performance.now();
    loop(TIMED_LOOPS);
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

/** Addresses of the test data; commands lie in front of it. */
const TEST = {
  command: 8192,
  stored: 16_384,
  weights: 24_576,
  x: 32_768,
  codes: 40_960,
  d: 49_152,
  s: 53_248,
  y: 57_344,
};
const ROWS = 8;
const COLUMNS = 2 * BLOCK;
const ONE_F16 = 0x3c00;

/** Whether the product kernels give the results of their twins: exact ones, since all numbers are small integers. */
function works(variant: Variant): boolean {
  try {
    return BLOCK32_FORMATS.filter((f) => !f.minimum).every((format) => formatWorks(format, variant));
  } catch {
    return false;
  }
}

function formatWorks(format: Block32, variant: Variant): boolean {
  const repack = repackKernel(format);
  const tiles = [tileKernel(format, 1), tileKernel(format, TILE)];
  const kernels = [repack, quantizeI8, quantizeI16, ...tiles] as readonly Kernel[];
  const pool = new ConstantPool(POOL_BASE, POOL_BYTES);
  const module = new WebAssembly.Module(bundle(kernels, variant, false, pool));
  const memory = new WebAssembly.Memory({ initial: 1 });
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: kernels.length });
  new WebAssembly.Instance(module, { env: { memory, table, tableBase: 0 } });
  pool.write(memory.buffer);
  const views = viewsOf(memory.buffer);
  const run = (how: 'wasm' | 'twin', kernel: Kernel, args: Readonly<Record<string, number>>) => {
    for (const [i, name] of Object.keys(kernel.fields).entries()) {
      views.i32[TEST.command / 4 + COMMAND_ARGUMENTS + i] = args[name]!;
    }
    if (how === 'twin') kernel.runTwin(views, TEST.command, 0, 1);
    else table.get(kernels.indexOf(kernel))(TEST.command, 0, 1);
  };
  fillTestData(format, views);
  run('twin', repack as Kernel, { source: TEST.stored, target: TEST.weights, groups: 1, columns: COLUMNS });
  const results = (['wasm', 'twin'] as const).flatMap((how) => {
    const kind = how === 'twin' ? 'i16' : activationOf(format, variant);
    return tiles.map((tile, i) => {
      const rows = i ? TILE : 1;
      const to = { q: TEST.codes, d: TEST.d, s: TEST.s };
      const quantize = (kind === 'i8' ? quantizeI8 : quantizeI16) as Kernel;
      run('twin', quantize, { x: TEST.x, ...to, rows, columns: COLUMNS, copyStride: 0 });
      run(how, tile as Kernel, {
        ...{ w: TEST.weights, rows: ROWS, columns: COLUMNS, x: TEST.codes, d: TEST.d, s: TEST.s, copyStride: 0 },
        ...{ tiles: 1, y: TEST.y, yStride: ROWS * 4, bias: 0, accumulate: 0 },
      });
      return views.f32.slice(TEST.y / 4, TEST.y / 4 + rows * ROWS);
    });
  });
  const [one, four, oneTwin, fourTwin] = results as [Float32Array, Float32Array, Float32Array, Float32Array];
  return same(one, oneTwin) && same(four, fourTwin);
}

function same(a: Float32Array, b: Float32Array): boolean {
  return a.every((x, i) => x === b[i]);
}

/** Scales of one; codes that cover the range, the first rows all largest and all smallest; inputs up to ±127. */
function fillTestData(format: Block32, { u8, u16, f32 }: ReturnType<typeof viewsOf>): void {
  const stored = storedOffsets(format);
  for (let row = 0; row < ROWS; row++) {
    for (let b = 0; b < COLUMNS / BLOCK; b++) {
      const at = TEST.stored + (row * (COLUMNS / BLOCK) + b) * stored.bytes;
      for (let i = stored.fifthBits; i < stored.bytes; i++) {
        const largest = format.bits === 8 && i >= stored.codes ? 127 : 255;
        u8[at + i] = row === 0 ? largest : row === 1 ? (format.bits === 8 ? 129 : 0) : (i * 73 + row * 151) & 127;
      }
      u16[at / 2] = ONE_F16;
    }
  }
  for (let i = 0; i < TILE * COLUMNS; i++) {
    f32[TEST.x / 4 + i] = i < COLUMNS ? 127 : i < 2 * COLUMNS ? -127 : i % BLOCK ? ((i * 89) % 255) - 127 : 127;
  }
}
