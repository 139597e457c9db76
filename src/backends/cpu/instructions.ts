import { bundle } from './bundle.ts';
import { COMMAND_ARGUMENTS, type Kernel, type Variant, viewsOf } from './kernel.ts';
import { activationOf, BLOCK32_FORMATS, type Block32 } from './linear/block32.ts';
import { BLOCK, TILE } from './linear/layout.ts';
import { quantizeI8, quantizeI16 } from './linear/quantize.ts';
import { repackKernel, storedOffsets } from './linear/repack.ts';
import { tileKernel } from './linear/tile.ts';
import { POOL_BASE, POOL_BYTES } from './memoryMap.ts';
import { ConstantPool } from './wasm/constants.ts';
import type { V128 } from './wasm/expr.ts';
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
  const off = { level: 'off', variant: PLAIN } as const;
  if (simd === 'off') return { ...off, reason: 'asked for' };
  if (typeof WebAssembly === 'undefined') return { ...off, reason: 'the engine has no WebAssembly' };
  if (simd !== 'simd' && !strict) {
    await allowRelaxedSimd();
    const dots = (['i16', 'i32'] as const).filter((dot) => works({ fma: true, dot }));
    if (dots.length === 1) {
      const dot = dots[0]!;
      return {
        level: 'relaxed',
        variant: { fma: true, dot },
        reason: `only dot products of ${dot} sums compute right`,
      };
    }
    if (dots.length === 2) {
      const dot = fasterDot();
      return { level: 'relaxed', variant: { fma: true, dot }, reason: `dot products of ${dot} sums are faster` };
    }
  }
  if (works(PLAIN)) {
    const reason = simd === 'simd' || strict ? 'asked for' : 'the engine has no working relaxed SIMD';
    return { level: 'simd', variant: PLAIN, reason };
  }
  return { ...off, reason: 'the engine has no working SIMD' };
}

/** Node 20 has relaxed SIMD behind a flag; every later engine has it without. */
async function allowRelaxedSimd(): Promise<void> {
  const m = new ModuleBuilder({ shared: false });
  m.function('probe', {}, (f) => f.drop(i16x8.relaxedDotI8x16I7x16S(v128.zero(), v128.zero())));
  if (WebAssembly.validate(m.finish())) return;
  try {
    const v8 = await nodeModule<{ setFlagsFromString(flag: string): void }>('node:v8');
    v8.setFlagsFromString('--experimental-wasm-relaxed-simd');
  } catch {
    // Not Node: nothing to switch on.
  }
}

const DOTS = 512;
const ACCUMULATORS = 4;
const LOOPS = 250;
const ROUNDS = 15;

/**
 * The faster of the two relaxed dot products, each in its best of rounds in turn. Both are in one function, which is
 * compiled as a whole: an engine that optimises while we measure treats them alike. They are straight-line code, since
 * compilers that do not optimise keep the variables of a loop in memory, which would hide the difference.
 */
function fasterDot(): 'i16' | 'i32' {
  const m = new ModuleBuilder({ shared: false });
  const dots = m.function('dots', { wide: 'i32' }, (f, { wide }) => {
    const x = f.v128('x', v128.load(0));
    const w = f.v128('w', v128.load(0, 16));
    const sums = f.v128s('sum', ACCUMULATORS);
    const all = (dot: (sum: V128) => V128) => {
      for (let i = 0; i < DOTS; i++) sums[i % ACCUMULATORS]!.set(dot(sums[i % ACCUMULATORS]!));
    };
    f.if(
      wide,
      () => all((sum) => i32x4.relaxedDotI8x16I7x16AddS(x, w, sum)),
      () => all((sum) => i16x8.add(sum, i16x8.relaxedDotI8x16I7x16S(x, w))),
    );
    for (const [i, sum] of sums.entries()) f.v128Store(0, sum, 32 + 16 * i);
  });
  m.function(
    'loop',
    { wide: 'i32', count: 'i32' },
    (f, { wide, count }) => f.doWhile(() => f.call(dots, wide), count.tee(i32.sub(count, 1))),
    { export: true },
  );
  const env = { memory: new WebAssembly.Memory({ initial: 1 }) };
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env });
  const loop = exports['loop'] as (wide: number, count: number) => void;
  const best = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (let round = 0; round < ROUNDS; round++) {
    for (const wide of [0, 1]) {
      const start = performance.now();
      loop(wide, LOOPS);
      best[wide] = Math.min(best[wide]!, performance.now() - start);
    }
  }
  return best[0]! <= best[1]! ? 'i16' : 'i32';
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

/** The format with the largest unsigned codes. */
const FORMAT: Block32 = BLOCK32_FORMATS.find((f) => f.name === 'Q5_0') as Block32;

/** Whether a product kernel gives the results of its twin: exact ones, since all numbers are small integers. */
function works(variant: Variant): boolean {
  try {
    return productWorks(FORMAT, variant);
  } catch {
    return false;
  }
}

function productWorks(format: Block32, variant: Variant): boolean {
  const repack = repackKernel(format) as Kernel;
  const tile = tileKernel(format, TILE) as Kernel;
  const pool = new ConstantPool(POOL_BASE, POOL_BYTES);
  const module = new WebAssembly.Module(bundle([tile], variant, false, pool));
  const memory = new WebAssembly.Memory({ initial: 1 });
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: 1 });
  new WebAssembly.Instance(module, { env: { memory, table, tableBase: 0 } });
  pool.write(memory.buffer);
  const views = viewsOf(memory.buffer);
  const encode = (kernel: Kernel, args: Readonly<Record<string, number>>) => {
    for (const [i, name] of Object.keys(kernel.fields).entries()) {
      views.i32[TEST.command / 4 + COMMAND_ARGUMENTS + i] = args[name]!;
    }
  };
  const product = (kind: 'i8' | 'i16', run: () => void) => {
    const quantize = (kind === 'i8' ? quantizeI8 : quantizeI16) as Kernel;
    const activations = { q: TEST.codes, d: TEST.d, s: TEST.s };
    encode(quantize, { x: TEST.x, ...activations, rows: TILE, columns: COLUMNS, copyStride: 0 });
    quantize.runTwin(views, TEST.command, 0, 1);
    encode(tile, {
      ...{ w: TEST.weights, rows: ROWS, columns: COLUMNS, x: TEST.codes, d: TEST.d, s: TEST.s, copyStride: 0 },
      ...{ tiles: 1, y: TEST.y, yStride: ROWS * 4, bias: 0, accumulate: 0, chunk: 0, counter: 0 },
    });
    run();
    return views.f32.slice(TEST.y / 4, TEST.y / 4 + TILE * ROWS);
  };
  fillTestData(format, views);
  encode(repack, { source: TEST.stored, target: TEST.weights, groups: 1, columns: COLUMNS });
  repack.runTwin(views, TEST.command, 0, 1);
  const actual = product(activationOf(format, variant), () => table.get(0)(TEST.command, 0, 1));
  const expected = product('i16', () => tile.runTwin(views, TEST.command, 0, 1));
  return actual.every((x, i) => x === expected[i]);
}

/** Scales of one; codes that cover the range, the first rows all largest and all smallest; inputs up to ±127. */
function fillTestData(format: Block32, { u8, u16, f32 }: ReturnType<typeof viewsOf>): void {
  const stored = storedOffsets(format);
  for (let row = 0; row < ROWS; row++) {
    for (let b = 0; b < COLUMNS / BLOCK; b++) {
      const at = TEST.stored + (row * (COLUMNS / BLOCK) + b) * stored.bytes;
      for (let i = stored.fifthBits; i < stored.bytes; i++) {
        u8[at + i] = row === 0 ? 255 : row === 1 ? 0 : i * 73 + row * 151;
      }
      u16[at / 2] = ONE_F16;
    }
  }
  for (let i = 0; i < TILE * COLUMNS; i++) {
    f32[TEST.x / 4 + i] = i < COLUMNS ? 127 : i < 2 * COLUMNS ? -127 : i % BLOCK ? ((i * 89) % 255) - 127 : 127;
  }
}
