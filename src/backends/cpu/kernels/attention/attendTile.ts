import type { KernelContext } from '../../kernel.ts';
import type { FunctionBuilder, Local } from '../../wasm/function.ts';
import { i32 } from '../../wasm/ops.ts';
import { type VectorLanes, vectorLanes } from '../lanes.ts';
import { type CacheKind, STEP_BYTES } from './layout.ts';

export const ATTEND_FIELDS = {
  out: 'i32',
  q: 'i32',
  cache: 'i32',
  blockTable: 'i32',
  seqStart: 'i32',
  kvLen: 'i32',
  sinks: 'i32',
  scratch: 'i32',
  scratchStride: 'i32',
  partial: 'i32',
  sequences: 'i32',
  blocksPerSequence: 'i32',
  chunksPerBlock: 'i32',
  kvHeads: 'i32',
  group: 'i32',
  headDim: 'i32',
  valueDim: 'i32',
  keySteps: 'i32',
  valueGroups: 'i32',
  chunkBytes: 'i32',
  headStride: 'i32',
  tileRows: 'i32',
  segmentChunks: 'i32',
  /** 1: every segment of a context is an item of its own. 0: an item is a tile with its whole context. */
  split: 'i32',
  /** 0: every row sees all cached positions. */
  causal: 'i32',
  /** 0: no window. */
  window: 'i32',
  scale: 'f32',
  softcap: 'f32',
} as const;

type Args = { readonly [K in keyof typeof ATTEND_FIELDS]: Local<(typeof ATTEND_FIELDS)[K]> };

/** A tile of work while it is emitted: the locals that its parts share. */
export class Tile {
  readonly f: FunctionBuilder;
  readonly a: Args;
  readonly ctx: KernelContext;
  readonly kind: CacheKind;
  /** Values are the first entries of the keys. */
  readonly latent: boolean;
  /**
   * The scales of values are joined with the weights of every query alike, before the maxima of both are known. Else each
   * query's weights are multiplied with them.
   */
  readonly sharesScales: boolean;
  readonly m: VectorLanes;
  readonly scratch: Local<'i32'>;
  readonly sequence: Local<'i32'>;
  /** Position of the first row of the tile. */
  readonly position: Local<'i32'>;
  readonly length: Local<'i32'>;
  readonly count: Local<'i32'>;
  readonly queries: Local<'i32'>;
  readonly queryBuffer: Local<'i32'>;
  readonly queryStride: Local<'i32'>;
  readonly output: Local<'i32'>;
  /** Outputs over all segments that are folded. */
  readonly totals: Local<'i32'>;
  /** Values of the chunk, turned out of its keys. */
  readonly turned: Local<'i32'>;
  readonly outputStride: Local<'i32'>;
  readonly chunk: Local<'i32'>;
  /** Position of the first entry of the chunk, and how many of its entries are in use. */
  readonly start: Local<'i32'>;
  readonly valid: Local<'i32'>;
  readonly values: Local<'i32'>;
  /** Scales of the values of a cache of integers. */
  readonly valueScales: Local<'i32'>;

  constructor(f: FunctionBuilder, a: Args, ctx: KernelContext, kind: CacheKind, latent: boolean) {
    this.f = f;
    this.a = a;
    this.ctx = ctx;
    this.kind = kind;
    this.latent = latent;
    this.sharesScales = kind === 'i16' && !latent;
    this.m = vectorLanes(f, ctx);
    this.scratch = f.i32('scratch', i32.add(a.scratch, i32.mul(ctx.tid, a.scratchStride)));
    this.sequence = f.i32('sequence');
    this.position = f.i32('position');
    this.length = f.i32('length');
    this.count = f.i32('count');
    this.queries = f.i32('queries');
    this.queryBuffer = f.i32('queryBuffer');
    this.queryStride = f.i32('queryStride');
    this.output = f.i32('output');
    this.totals = f.i32('totals');
    this.turned = f.i32('turned');
    this.outputStride = f.i32('outputStride', i32.mul(a.valueGroups, STEP_BYTES));
    this.chunk = f.i32('chunk');
    this.start = f.i32('start');
    this.valid = f.i32('valid');
    this.values = f.i32('values');
    this.valueScales = f.i32('valueScales');
  }
}
