/** The boundary every back-end implements. Types only, plus the two handle classes that models hold. */
import type { DType, StorageType, TypedArray } from './dtype.ts';
import type { Shape, Tensor } from './tensor.ts';
import type { Turns } from './turns.ts';
import type { Weight } from './weight.ts';

// ---------------------------------------------------------------------------------------------------------------- //
// Weights and caches: opaque to everything above.

/** Rows of one storage type, read in the checkpoint's own layout. */
export interface RawSection {
  readonly type: StorageType;
  readonly rows: number;
  /** Fills `target` (`rows * rowBytes`, may be shared memory) with rows `[first, first + rows)`. */
  readRows(first: number, rows: number, target: Uint8Array): Promise<void>;
}

/** A matrix `[out, in]` as a checkpoint stores it; merged projections are several sections below one another. */
export interface RawWeight {
  readonly name: string;
  readonly shape: readonly [number, number];
  readonly sections: readonly RawSection[];
}

/** A back-end's private form of a matrix, behind a `Weight` handle. */
export interface WeightData {
  readonly bytes: number;
  /** Formats of its sections, for reports: `Q4_1`, `F16`, … */
  readonly formats: readonly string[];
  dispose(): void;
}

export interface KvSpec {
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /**
   * Values are the first `valueDim` entries of the keys, as in multi-head latent attention: only keys are stored.
   * `qkvStore` then takes rows without values, `[(heads + kvHeads) * headDim]`.
   */
  readonly valuesInKeys?: boolean | undefined;
  readonly dtype: KvDType;
}

/**
 * `f16`: two bytes an element, in half precision or another form that is as good. `q8_0`: one byte an element and a scale
 * for every 32 of a head, the largest of which becomes 127.
 */
export type KvDType = 'f32' | 'f16' | 'q8_0';

/** Keys and values of one layer in `blocks` blocks of `blockSize` positions; the layout is the back-end's own. */
export interface KvCache {
  readonly spec: KvSpec;
  readonly blocks: number;
  readonly blockSize: number;
  readonly bytes: number;
  dispose(): void;
}

/**
 * What a recurrent layer keeps of one sequence: `shape` floats, whatever its length. States of one layer are a tensor
 * `[slots, …shape]`; `Batch.stateSlots` says which slot is a sequence's.
 */
export interface StateSpec {
  readonly shape: Shape;
}

/**
 * Where the packed rows of a step belong. Sequence `s` owns rows `[seqStart[s], seqStart[s + 1])`, which are the last
 * positions of its `kvLen[s]` cached ones. Tensors hold at least as many entries as counted here; `host` mirrors them.
 */
export interface Batch {
  rows: number;
  sequences: number;
  /** Entries of one row of `blockTable`. */
  blocksPerSequence: number;
  readonly tokens: Tensor;
  readonly positions: Tensor;
  /** Row → cache slot: `block * blockSize + offset`. */
  readonly slots: Tensor;
  readonly seqStart: Tensor;
  readonly kvLen: Tensor;
  /** `[sequences, blocksPerSequence]` block numbers, in order of position. */
  readonly blockTable: Tensor;
  /** Slot of every sequence in the states of recurrent layers. */
  readonly stateSlots: Tensor;
  /** Rows whose logits are wanted. */
  readonly logitRows: Tensor;
  logitCount: number;
  readonly host: {
    readonly tokens: Int32Array;
    readonly positions: Int32Array;
    readonly slots: Int32Array;
    readonly seqStart: Int32Array;
    readonly kvLen: Int32Array;
    readonly blockTable: Int32Array;
    readonly stateSlots: Int32Array;
    readonly logitRows: Int32Array;
    /** Length each sequence is computed for, which some rotations depend on; positions from there on are its end. */
    readonly baseLen: Int32Array;
  };
}

// ---------------------------------------------------------------------------------------------------------------- //
// Ops. `core/ops.ts` checks shapes and allocates `out`; kernels only compute. Option objects are made once, at build.

export type UnaryKind =
  | 'neg'
  | 'abs'
  | 'square'
  | 'sqrt'
  | 'rsqrt'
  | 'reciprocal'
  | 'exp'
  | 'log'
  | 'sin'
  | 'cos'
  | 'tanh'
  | 'erf'
  | 'sigmoid'
  | 'softplus'
  | 'floor'
  | 'round'
  | 'sign'
  | Activation
  /** `a * x + b` */
  | 'affine'
  /** `min(max(x, a), b)` */
  | 'clamp'
  /** `a * tanh(x / a)` */
  | 'softcap';

export type Activation = 'silu' | 'gelu' | 'geluTanh' | 'geluQuick' | 'relu' | 'relu2';
export type BinaryKind = 'add' | 'sub' | 'mul' | 'div' | 'max' | 'min' | 'pow' | 'less' | 'equal';
export type ReduceKind = 'sum' | 'mean' | 'max' | 'min' | 'argmax';
/**
 * `rms`: `x / sqrt(mean(x²) + eps)`; `l2`: `x / sqrt(sum(x²) + eps)`; `layer`: mean and variance of the row; `group`: those
 * of each of `groups` groups of channels of `[batch, channels, …spatial]`, with weight and bias by channel.
 */
export type NormKind = 'rms' | 'layer' | 'group' | 'l2';

export interface LinearOptions {
  readonly bias?: Tensor | undefined;
  /** Adds to `out` instead of overwriting it (the residual connection). */
  readonly accumulate?: boolean | undefined;
}

export interface NormOptions {
  readonly kind: NormKind;
  readonly eps: number;
  readonly weight?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
  /** Multiplies by `1 + weight` (Gemma). */
  readonly plusOne?: boolean | undefined;
  /** Parts the row is cut into, each normalised on its own (weight and bias span the whole row); 1 when absent. */
  readonly groups?: number | undefined;
}

export interface GluOptions {
  readonly activation: Activation;
  /** Clamped, scaled variant: `gate' = min(gate, limit)`, `up' = clamp(up, ±limit)`, `gate' σ(alpha gate') (up' + 1)`. */
  readonly clamped?: { readonly alpha: number; readonly limit: number } | undefined;
  /** Gate and up columns alternate instead of lying in two halves. */
  readonly interleaved?: boolean | undefined;
}

export interface RopeOptions {
  readonly headDim: number;
  /** First dimensions of each head that rotate. */
  readonly rotaryDim: number;
  /** Rotates neighbouring pairs instead of the two halves. */
  readonly interleaved: boolean;
}

/**
 * How a fused q/k/v row `[(heads + kvHeads) * headDim + kvHeads * valueDim]` becomes queries and cache entries; the row
 * ends with the keys where the cache finds its values in them.
 */
export interface QkvOptions {
  /** 0: there are no queries, only keys and values to store. */
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly rope?: RopeOptions | undefined;
  /** Per-head norms of queries and keys, over `headDim`. */
  readonly qNorm?: NormOptions | undefined;
  readonly kNorm?: NormOptions | undefined;
  readonly normAfterRope?: boolean | undefined;
}

export interface AttentionOptions {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly scale: number;
  /** A query sees itself and the `window - 1` positions before it. */
  readonly window?: number | undefined;
  /** `softcap * tanh(score / softcap)` before the softmax. */
  readonly softcap?: number | undefined;
  /** One logit per head that joins the softmax denominator only. */
  readonly sinks?: Tensor | undefined;
}

/**
 * Attention over explicit `[keys, kvHeads * dim]` keys and values, for encoders: no cache. The optional mask is added to
 * the scaled scores and is `[rows, keys]` or `[heads, rows, keys]`; with `causal` the last query sees the last key.
 */
export interface DenseAttentionOptions {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly scale: number;
  readonly causal?: boolean | undefined;
  readonly softcap?: number | undefined;
}

/**
 * Options of the recurrent ops. All three run the rows of each sequence in order, from the state that its slot holds to the
 * one that they leave there. A sequence whose first row is its first position (`kvLen` equals its rows) starts from zeros:
 * what the slot held is not read.
 */
export interface CausalConvOptions {
  /** First column of `x` that takes part. */
  readonly start: number;
  /** `[channels]` */
  readonly bias?: Tensor | undefined;
  /** Applies `y σ(y)` to the result. */
  readonly silu?: boolean | undefined;
}

export interface SsmScanOptions {
  readonly heads: number;
  readonly headDim: number;
  /** Heads share keys and queries (`B` and `C`) in `groups` runs of `heads / groups`. */
  readonly groups: number;
  readonly stateDim: number;
  /** First column of `dt` that takes part; `heads` of them do. */
  readonly start: number;
  /** `A`, `[heads]`, negative. */
  readonly decay: Tensor;
  /** `[heads]` */
  readonly bias: Tensor;
  /** `D`, `[heads]`. */
  readonly skip: Tensor;
  readonly minStep: number;
  /** May be infinite. */
  readonly maxStep: number;
}

export interface GatedDeltaOptions {
  /** Each serves `valueHeads / keyHeads` value heads: consecutive ones, or every `keyHeads`-th where `cyclic`. */
  readonly keyHeads: number;
  readonly valueHeads: number;
  readonly cyclic?: boolean | undefined;
  readonly keyDim: number;
  readonly valueDim: number;
  /** First column of `gates` that takes part: `valueHeads` of `b`, then as many of `a`. */
  readonly start: number;
  /** `A`, `[valueHeads]`, negative. */
  readonly decay: Tensor;
  /** `[valueHeads]` */
  readonly bias: Tensor;
  /** Multiplies the queries, beside their normalisation. */
  readonly scale: number;
  /** Queries and keys become `x / sqrt(sum(x²) + eps)`. */
  readonly eps: number;
}

export interface ConvOptions {
  /** One entry per spatial axis (1, 2 or 3 of them). */
  readonly stride: readonly number[];
  readonly padding: readonly number[];
  readonly dilation: readonly number[];
  readonly groups: number;
  readonly bias?: Tensor | undefined;
  /** Extra entries behind each spatial axis of a transposed convolution. */
  readonly outputPadding?: readonly number[] | undefined;
}

export interface PoolOptions {
  readonly kind: 'max' | 'mean';
  readonly size: readonly number[];
  readonly stride: readonly number[];
}

export interface ResizeOptions {
  readonly mode: 'nearest' | 'bilinear' | 'bicubic';
  readonly alignCorners: boolean;
}

/** What a new back-end must have. `out` may alias `x` (or `a`) in elementwise ops. */
export interface RequiredOps {
  /** `a`, `b` are the parameters of `affine`, `clamp` and `softcap`. */
  unary(kind: UnaryKind, out: Tensor, x: Tensor, a: number, b: number): void;
  /** `y` has the size of `x`, or is one row `[width]`, one column `[rows, 1]`, or one element. */
  binary(kind: BinaryKind, out: Tensor, x: Tensor, y: Tensor): void;
  /** `condition` (f32, non-zero is true) has the size of `x` and `y`. */
  select(out: Tensor, condition: Tensor, x: Tensor, y: Tensor): void;
  /** Floats become integers by truncation, with saturation; NaN becomes 0. */
  cast(out: Tensor, x: Tensor): void;
  /** Entries `start, start + step, …` of `axis`; `out.shape` tells how many, `step` may be negative. */
  slice(out: Tensor, x: Tensor, axis: number, start: number, step: number): void;
  concat(out: Tensor, xs: readonly Tensor[], axis: number): void;
  permute(out: Tensor, x: Tensor, axes: readonly number[]): void;
  /** Repeats axes of size 1. */
  expand(out: Tensor, x: Tensor): void;
  /** `before[i]` entries of `value` in front of axis `i`; `out.shape` tells how many follow. */
  pad(out: Tensor, x: Tensor, before: readonly number[], value: number): void;
  /** Along `axis`; `argmax` writes i32. */
  reduce(kind: ReduceKind, out: Tensor, x: Tensor, axis: number): void;
  cumsum(out: Tensor, x: Tensor, axis: number): void;
  /** The `k` largest of each row in falling order, ties by lower index; `indices` is i32. */
  topk(values: Tensor, indices: Tensor, x: Tensor, k: number): void;
  /** `out[r] = table[ids[r]]` for the rows of `out`; `ids` is i32 and may hold more. A `Weight` table is dequantized. */
  gatherRows(out: Tensor, table: Tensor | Weight, ids: Tensor): void;
  /** `out[ids[r]] = x[r]`, or `+=` in row order when `accumulate`. */
  scatterRows(out: Tensor, x: Tensor, ids: Tensor, accumulate: boolean): void;
  /** `[…, m, k] × […, k, n]`, or `[…, n, k]` when `transposed`. Leading axes are equal. */
  matmul(out: Tensor, a: Tensor, b: Tensor, transposed: boolean): void;
  /** `out = x Wᵀ (+ bias)`, `x` `[rows, in]`. */
  linear(out: Tensor, x: Tensor, w: Weight, options: LinearOptions): void;
  /** `x` `[batch, channels, …spatial]`, `w` `[out, channels / groups, …kernel]`. */
  conv(out: Tensor, x: Tensor, w: Tensor, options: ConvOptions): void;
  /** Last two axes of `[batch, channels, height, width]`. */
  resize(out: Tensor, x: Tensor, options: ResizeOptions): void;
}

/** Composed from the required ops where a back-end lacks them (`core/composed.ts`). */
export interface OptionalOps {
  norm(out: Tensor, x: Tensor, options: NormOptions): void;
  /** `residual += x`, then `out = norm(residual)`. */
  addNorm(out: Tensor, residual: Tensor, x: Tensor, options: NormOptions): void;
  /**
   * Over the last axis, after `scale * x (+ mask)`; `mask` has the size of `x` or of one row. A row of minus infinities
   * gives zeros.
   */
  softmax(out: Tensor, x: Tensor, scale: number, mask: Tensor | undefined): void;
  /** `x` holds gate and up: `[rows, 2 * width] → [rows, width]`. */
  glu(out: Tensor, x: Tensor, options: GluOptions): void;
  /** In place on `x` `[rows, heads * headDim]`. `cosSin` is `[rows, rotaryDim]`: cosines, then sines. */
  rope(x: Tensor, cosSin: Tensor, options: RopeOptions): void;
  /** `undefined` where the back-end has no layout for the spec: attention is then composed. */
  createKvCache(spec: KvSpec, blocks: number, blockSize: number): KvCache | undefined;
  /** Copies one block of a cache over another (copy-on-write of shared prefixes). */
  copyKvBlock(cache: KvCache, from: number, to: number): void;
  /** Norms, rotates and splits: queries go to `q` `[rows, heads * headDim]`, keys and values into the cache. */
  qkvStore(q: Tensor, qkv: Tensor, cosSin: Tensor | undefined, cache: KvCache, batch: Batch, options: QkvOptions): void;
  /** Causal attention of every sequence over its cached positions. `out` is `[rows, heads * valueDim]`. */
  attention(out: Tensor, q: Tensor, cache: KvCache, batch: Batch, options: AttentionOptions): void;
  denseAttention(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | undefined,
    options: DenseAttentionOptions,
  ): void;
  /**
   * `out[r * k + j] = x[…] W[experts[r, j]]ᵀ` for i32 `experts` `[rows, k]`; `x` has `rows` rows or `rows * k` of them.
   * `w` stacks the matrices of `expertCount` experts below one another.
   */
  linearExperts(out: Tensor, x: Tensor, w: Weight, experts: Tensor, expertCount: number): void;
  /**
   * Depthwise convolution over time. `w` is `[kernel, channels]`; `state` `[slots, kernel - 1, channels]` holds the last
   * inputs of every sequence, oldest first.
   *
   *     out[t, c] = bias[c] + Σ_j w[j, c] x[t - kernel + 1 + j, start + c]
   */
  causalConv(out: Tensor, x: Tensor, w: Tensor, state: Tensor, batch: Batch, options: CausalConvOptions): void;
  /**
   * The selective scan of Mamba 2 (Dao & Gu 2024, "Transformers are SSMs"). A row of `x` is the values of all heads, then
   * `B` and `C` of all groups; `state` is `[slots, heads, stateDim, headDim]`. For head `h` of group `g`:
   *
   *     δ = clamp(softplus(dt[t, start + h] + bias[h]), minStep, maxStep)
   *     S = exp(δ decay[h]) S + B[g] ⊗ (δ x[h])
   *     out[t, h] = Sᵀ C[g] + skip[h] x[h]
   */
  ssmScan(out: Tensor, x: Tensor, dt: Tensor, state: Tensor, batch: Batch, options: SsmScanOptions): void;
  /**
   * The gated delta rule (Yang, Kautz & Hatamizadeh 2024, "Gated Delta Networks"). A row of `x` is queries and keys of all
   * key heads, then values; `state` is `[slots, valueHeads, keyDim, valueDim]`. With normalised `q` and `k` of the key head
   * that serves value head `h`:
   *
   *     S = exp(decay[h] softplus(a[h] + bias[h])) S
   *     S = S + k ⊗ σ(b[h]) (v[h] - Sᵀ k)
   *     out[t, h] = Sᵀ (scale q)
   */
  gatedDelta(out: Tensor, x: Tensor, gates: Tensor, state: Tensor, batch: Batch, options: GatedDeltaOptions): void;
  /** `sums[c] += Σ_r x[r, c]²` for `sums` `[width]`. The op behind it may run at the same time: it must write neither. */
  addSquares(sums: Tensor, x: Tensor): void;
  /**
   * The same by expert, for i32 `experts` `[rows, k]` and `x` of `rows` rows or `rows * k`: each pair `p` of a row and one of
   * its choices adds the squares of its row of `x` to row `experts[p]` of `sums` `[experts, width]`, and 1 to
   * `counts[experts[p]]`. The op behind it may run at the same time, too.
   */
  addExpertSquares(sums: Tensor, counts: Tensor, x: Tensor, experts: Tensor): void;
  convTranspose(out: Tensor, x: Tensor, w: Tensor, options: ConvOptions): void;
  pool(out: Tensor, x: Tensor, options: PoolOptions): void;
}

export type Ops = RequiredOps & Partial<OptionalOps>;

export interface BackendInfo {
  readonly name: string;
  readonly threads: number;
  /** `relaxed`, `simd`, `off`, or the adapter's name. */
  readonly simd: string;
  /** Why this variant was chosen. */
  readonly reason: string;
}

export interface Backend {
  readonly name: string;
  readonly info: BackendInfo;
  /** Results come from another processor's memory: what the host reads should be small. */
  readonly remote?: boolean | undefined;
  /** Blocks of a key/value cache are multiples of so many positions; any size when absent. */
  readonly kvBlockStep?: number | undefined;
  readonly ops: Ops;
  /** Whose steps it runs, where several runners share it. */
  readonly turns: Turns;
  /** From the arena inside `scope`, else persistent (until `free`). Contents are undefined. */
  alloc(shape: Shape, dtype?: DType): Tensor;
  /** `alloc([rows, width], 'f32')` without allocating in JavaScript once the arena has seen the sequence of shapes. */
  allocRows(rows: number, width: number): Tensor;
  /** A persistent tensor outside any scope. */
  persistent(shape: Shape, dtype?: DType): Tensor;
  /** A persistent tensor with the given contents. */
  upload(data: TypedArray, shape: Shape, dtype?: DType): Tensor;
  /** Writes host data into `target`. No enqueued op may still touch the target: write between steps. */
  write(target: Tensor, data: TypedArray, count?: number): void;
  /** Everything allocated inside `body` returns to the arena when it ends. Scopes nest. */
  scope(body: () => void): void;
  /** Runs what is enqueued and copies a tensor to the host: the only await of a step. */
  read(t: Tensor): Promise<TypedArray>;
  /**
   * Like `read`, but may return a view of the back-end's own memory, valid until the next op is enqueued. Allocates
   * nothing where the back-end can.
   */
  view(t: Tensor): Promise<TypedArray>;
  /** Runs what is enqueued. */
  flush(): Promise<void>;
  free(t: Tensor): void;
  loadWeight(raw: RawWeight): Promise<WeightData>;
  /** Bytes held: weights, caches and other persistent tensors, and the arena. */
  memory(): { readonly persistent: number; readonly arena: number };
  dispose(): Promise<void>;
}

/** Options of `createBackend`. */
export interface BackendOptions {
  readonly threads?: number | 'auto' | undefined;
  readonly simd?: 'auto' | 'relaxed' | 'simd' | 'off' | undefined;
  /** Same floats in every engine: no fused multiply-add, and on GPUs no activations rounded to 8 bits. */
  readonly strict?: boolean | undefined;
  /** Part of the name of the GPU adapter to take; `software` for one that computes on the processor. */
  readonly adapter?: string | undefined;
  /** Why this back-end was chosen; becomes part of `info.reason`. */
  readonly why?: string | undefined;
}
