import type { KernelContext } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../wasm/ops.ts';
import { halves, SIGN_AND_REST } from './block32.ts';
import { defineTileKernel, type TileKernel, type TilePointers } from './driver.ts';
import { type CodeFormat, type CodeOffsets, codeOffsets, inputScale, PAIR, resultScale } from './kquant.ts';
import { SUM_BYTES, SUM_WORDS } from './kquantActivations.ts';
import { forEachOf, pairEmitter, type Tile, tileLocals } from './kquantPair.ts';
import { blockSumTwin } from './kquantTwin.ts';
import { GROUP, QUADS } from './layout.ts';

/** Shuffles that pair the 16-bit lanes of two vectors: for the first quad, for the second. */
const PAIR_UP = [
  [0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23],
  [8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31],
] as const;

/** The tile kernel of a format. */
export function codeTileKernel(format: CodeFormat, n: number): TileKernel {
  const offsets = codeOffsets(format);
  return defineTileKernel(format.name, n, {
    groupBytes: (columns) => i32.mul(i32.shrU(columns, Math.log2(format.block)), offsets.bytes),
    emitTile: (f, p, _, ctx) => emitTile(f, format, n, p, ctx),
    sumTwin(m, a, { group, row, tile, token, copy }) {
      const blocks = a.columns / format.block;
      const at = { x: (a.x >>> 0) + copy, d: (a.d >>> 0) + copy, s: (a.s >>> 0) + copy, n };
      let sum = 0;
      for (let b = 0; b < blocks; b++) {
        const block = (a.w >>> 0) + (group * blocks + b) * offsets.bytes;
        sum = blockSumTwin(m, format, block, row, { ...at, block: tile * blocks + b, token }, sum);
      }
      return Math.fround(sum * resultScale(format));
    },
  });
}

/** Sums of 8 rows × `n` tokens over all blocks; the pointers end behind what they read. */
function emitTile(f: FunctionBuilder, format: CodeFormat, n: number, p: TilePointers, ctx: KernelContext): Tile {
  const sums = tileLocals(f, 'sum', n);
  forEachOf(sums, (sum) => {
    sum.set(v128.zero());
  });
  const emitBlock = (format.inputs === 256 ? block256 : blockOf32s)(f, format, n, p, ctx, sums);
  f.doWhile(emitBlock, i32.ltU(p.pw, p.end));
  const scale = resultScale(format);
  if (scale !== 1) {
    forEachOf(sums, (sum) => {
      sum.set(f32x4.mul(sum, f.inMemory.f32x4(scale)));
    });
  }
  return sums;
}

/** Eight rows' scales at `offset` behind `at`, as read (`resultScale`). */
function loadScales(
  f: FunctionBuilder,
  kind: CodeFormat['scale'],
  at: Local<'i32'>,
  offset: number,
  scales: readonly Local<'v128'>[],
  constants: FunctionBuilder['pooled'] | FunctionBuilder['inMemory'],
): void {
  const bits = f.v128('bits');
  switch (kind) {
    case 'f16':
      halves(at, offset, constants.i16x8(SIGN_AND_REST), bits, scales);
      return;
    case 'f32':
      scales.forEach((scale, quad) => {
        scale.set(v128.load(at, offset + 16 * quad));
      });
      return;
    case 'bf16':
      scales.forEach((scale, quad) => {
        scale.set(i32x4.shl(v128.load16x4U(at, offset + 8 * quad), 16));
      });
  }
}

/** `sums += integers · scale · d`, where `loadInput` gives `d` of a token. */
function addScaled(
  integers: Tile,
  scales: readonly Local<'v128'>[],
  loadInput: (token: number) => V128,
  x: Local<'v128'>,
  ctx: KernelContext,
  sums: Tile,
): void {
  integers.forEach((row, t) => {
    x.set(loadInput(t));
    row.forEach((total, quad) => {
      const sum = sums[t]![quad]!;
      sum.set(ctx.madd(f32x4.convertI32x4S(total), f32x4.mul(scales[quad]!, x), sum));
    });
  });
}

type EmitBlock = (
  f: FunctionBuilder,
  format: CodeFormat,
  n: number,
  p: TilePointers,
  ctx: KernelContext,
  sums: Tile,
) => () => void;

/**
 * Blocks of 256 columns: all integers. The offset of the codes, and minima, count once per run of columns: they meet the
 * sums of the run's activations.
 */
const block256: EmitBlock = (f, format, n, p, ctx, sums) => {
  const offsets = codeOffsets(format);
  const constants = n <= 2 ? f.pooled : f.inMemory;
  const pair = pairEmitter(f, format, n, ctx);
  const totals = tileLocals(f, 'total', n);
  const scales = f.v128s('scale', QUADS);
  const bytes = f.v128('bytes');
  const x = f.v128('x');
  const block = f.i32('block');
  const ofRuns = f.i32('ofRuns');
  const pc = f.i32('pc');
  const endOfBlock = f.i32('endOfBlock');
  const stepsPerRun = format.run ? format.run / 4 : 0;

  const loadRunScales = (run: number) => {
    const nibbles = format.minimum === 'nibbles';
    const loaded = v128.load8x8S(ofRuns, run * GROUP);
    bytes.set(nibbles ? v128.and(loaded, constants.i16x8(15)) : loaded);
    scales.forEach((scale, quad) => {
      if (pair.narrow) scale.set(i8x16.shuffle(bytes, bytes, PAIR_UP[quad]!));
      else scale.set(quad ? i32x4.extendHighI16x8S(bytes) : i32x4.extendLowI16x8S(bytes));
    });
  };
  const widen = (sum: V128, quad: number): V128 => {
    if (pair.narrow) return format.run ? i32x4.dotI16x8S(sum, scales[quad]!) : i32x4.extaddPairwiseI16x8S(sum);
    return format.run ? i32x4.mul(sum, scales[quad]!) : sum;
  };
  return () => {
    block.set(p.pw);
    if (format.offset && !pair.corrected) {
      sumOfRuns(f, format, offsets, n, block, p.ps, totals);
      forEachOf(totals, (total) => {
        total.set(i32x4.neg(i32x4.shl(total, Math.log2(format.offset!))));
      });
    } else {
      forEachOf(totals, (total) => {
        total.set(v128.zero());
      });
    }
    ofRuns.set(i32.add(block, offsets.scales));
    endOfBlock.set(i32.add(block, offsets.bytes));
    if (pair.corrected) pc.set(p.ps);
    p.pw.inc(offsets.codes);
    f.doWhile(
      () => {
        let loaded = -1;
        pair.emit({ pw: p.pw, px: p.px, pc }, (products, lastStep) => {
          const run = Math.floor(lastStep / stepsPerRun);
          if (format.run && run !== loaded) loadRunScales(run);
          loaded = run;
          forEachOf(products, (sum, t, quad) => {
            const total = totals[t]![quad]!;
            total.set(i32x4.add(total, widen(sum, quad)));
          });
        });
        if (format.run) ofRuns.inc((pair.columns / format.run) * GROUP);
        if (pair.corrected) pc.inc((pair.columns / 16) * 4 * n);
      },
      i32.ltU(p.pw, endOfBlock),
    );
    const loadInput = (t: number) => v128.load32Splat(p.pd, 4 * t);
    loadScales(f, format.scale, block, 0, scales, constants);
    addScaled(totals, scales, loadInput, x, ctx, sums);
    if (format.minimum) {
      sumOfRuns(f, format, offsets, n, block, p.ps, totals);
      loadScales(f, format.scale, block, offsets.second, scales, constants);
      addScaled(totals, scales, loadInput, x, ctx, sums);
    }
    p.pd.inc(4 * n);
    p.ps.inc(SUM_BYTES * n);
  };
};

/** `totals = Σ m · (sum of activations)` over the runs of a block, where m are the minima, else the scales, else 1. */
function sumOfRuns(
  f: FunctionBuilder,
  format: CodeFormat,
  offsets: CodeOffsets,
  n: number,
  block: Local<'i32'>,
  ps: Local<'i32'>,
  totals: Tile,
): void {
  const of16 = format.run === 16;
  const words = of16 ? 8 : 4;
  const firstWord = of16 ? SUM_WORDS.of16 : SUM_WORDS.of32;
  const factors = f.v128s('factor', QUADS);
  const runs = f.v128s('run', 2);
  const x = f.v128('x');
  for (let word = 0; word < words; word++) {
    if (format.minimum === 'bytes') {
      factors.forEach((factor, quad) => {
        factor.set(v128.load8x8U(block, offsets.minima + (2 * word + quad) * GROUP));
      });
    } else if (format.run) {
      runs.forEach((run, i) => {
        const at = offsets.scales + (2 * word + i) * GROUP;
        run.set(format.minimum ? i16x8.shrU(v128.load8x8U(block, at), 4) : v128.load8x8S(block, at));
      });
      factors.forEach((factor, quad) => {
        factor.set(i8x16.shuffle(runs[0]!, runs[1]!, PAIR_UP[quad]!));
      });
    }
    totals.forEach((row, t) => {
      x.set(v128.load32Splat(ps, ((firstWord + word) * n + t) * 4));
      row.forEach((total, quad) => {
        const product = i32x4.dotI16x8S(x, format.run ? factors[quad]! : f.inMemory.i16x8(1));
        total.set(word ? i32x4.add(total, product) : product);
      });
    });
  }
}

/** Blocks under a float scale, or with one for each half of 16 columns, and activations in blocks of 32 columns. */
const blockOf32s: EmitBlock = (f, format, n, p, ctx, sums) => {
  const offsets = codeOffsets(format);
  const constants = n <= 2 ? f.pooled : f.inMemory;
  const pair = pairEmitter(f, format, n, ctx);
  const totals = tileLocals(f, 'total', n);
  const scales = f.v128s('scale', QUADS);
  const x = f.v128('x');
  const offset = f.v128('offset');
  const block = f.i32('block');
  const endOfBlock = f.i32('endOfBlock');
  const factor = inputScale(format);
  const load = (at: Local<'i32'>) => (t: number) => {
    const loaded = v128.load32Splat(at, 4 * t);
    return factor === 1 ? loaded : f32x4.mul(loaded, constants.f32x4(factor));
  };
  const emitPair = () => {
    let first = true;
    pair.emit({ pw: p.pw, px: p.px, pc: p.ps }, (products, lastStep) => {
      if (format.scalePerHalf) {
        loadScales(f, format.scale, block, (lastStep & 1) * offsets.second, scales, constants);
        addScaled(products, scales, load(p.pd), x, ctx, sums);
        return;
      }
      forEachOf(products, (sum, t, quad) => {
        const total = totals[t]![quad]!;
        const widened = pair.narrow ? i32x4.extaddPairwiseI16x8S(sum) : sum;
        total.set(first ? widened : i32x4.add(total, widened));
      });
      first = false;
    });
    if (!format.scalePerHalf) {
      loadScales(f, format.scale, block, 0, scales, constants);
      if (!format.offset) addScaled(totals, scales, load(p.pd), x, ctx, sums);
      else {
        totals.forEach((row, t) => {
          x.set(load(p.pd)(t));
          offset.set(f32x4.mul(load(p.ps)(t), constants.f32x4(-format.offset!)));
          row.forEach((total, quad) => {
            const sum = sums[t]![quad]!;
            const centred = ctx.madd(f32x4.convertI32x4S(total), x, offset);
            sum.set(ctx.madd(centred, scales[quad]!, sum));
          });
        });
      }
      if (format.minimum) {
        loadScales(f, format.scale, block, offsets.second, scales, constants);
        sums.forEach((row, t) => {
          x.set(load(p.ps)(t));
          row.forEach((sum, quad) => {
            sum.set(ctx.madd(scales[quad]!, x, sum));
          });
        });
      }
    }
    p.pd.inc(4 * n);
    p.ps.inc(4 * n);
  };
  return () => {
    block.set(p.pw);
    p.pw.inc(offsets.codes);
    if (format.block === PAIR) emitPair();
    else {
      endOfBlock.set(i32.add(block, offsets.bytes));
      f.doWhile(emitPair, i32.ltU(p.pw, endOfBlock));
    }
  };
};
