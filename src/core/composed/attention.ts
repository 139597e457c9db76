/** Paged attention from row copies and matrix products: the cache is two matrices with one row per position. */
import type {
  AttentionOptions,
  Backend,
  Batch,
  DenseAttentionOptions,
  KvCache,
  KvSpec,
  NormOptions,
  QkvOptions,
} from '../backend.ts';
import { UnsupportedError } from '../errors.ts';
import { addInto, binary, binaryInto, cast, mulInto, scaleInto, unary, unaryInto } from '../ops/elementwise.ts';
import { concat, expand, gatherRows, permute, scatterRows, slice } from '../ops/layout.ts';
import { matmul } from '../ops/linear.ts';
import { norm, rope, softmax } from '../ops/normalize.ts';
import type { Tensor } from '../tensor.ts';
import { copy, fill, iota, LOWEST } from './basics.ts';

/** Keys and values as `[blocks * blockSize, kvHeads * dim]`; values may lie in the keys. */
export class ComposedKvCache implements KvCache {
  readonly spec: KvSpec;
  readonly blocks: number;
  readonly blockSize: number;
  readonly keys: Tensor;
  readonly values: Tensor | undefined;

  constructor(backend: Backend, spec: KvSpec, blocks: number, blockSize: number) {
    this.spec = spec;
    this.blocks = blocks;
    this.blockSize = blockSize;
    const dtype = floatsOf(spec, backend.name);
    this.keys = backend.persistent([blocks * blockSize, spec.kvHeads * spec.keyDim], dtype);
    this.values = spec.valuesInKeys
      ? undefined
      : backend.persistent([blocks * blockSize, spec.kvHeads * spec.valueDim], dtype);
  }

  get bytes(): number {
    return this.keys.storage.bytes + (this.values?.storage.bytes ?? 0);
  }

  dispose(): void {
    this.keys.dispose();
    this.values?.dispose();
  }
}

export function composedCreateKvCache(backend: Backend, spec: KvSpec, blocks: number, blockSize: number): KvCache {
  return new ComposedKvCache(backend, spec, blocks, blockSize);
}

/** The element type of a cache that is a tensor. */
function floatsOf({ dtype }: KvSpec, backend: string): 'f32' | 'f16' {
  if (dtype !== 'q8_0') return dtype;
  throw new UnsupportedError(
    `createKvCache: a q8_0 cache is not available on the back-end "${backend}"; take pagedAttn.cacheType f16`,
    { feature: 'q8_0 cache' },
  );
}

export function composedCopyKvBlock(cache: ComposedKvCache, from: number, to: number): void {
  const { blockSize, keys, values } = cache;
  for (const t of values ? [keys, values] : [keys]) {
    t.backend.ops.slice(t.rows(to * blockSize, (to + 1) * blockSize), t, 0, from * blockSize, 1);
  }
}

export function composedQkvStore(
  q: Tensor,
  qkv: Tensor,
  cosSin: Tensor | undefined,
  cache: ComposedKvCache,
  batch: Batch,
  options: QkvOptions,
): void {
  const { heads, kvHeads, headDim } = options;
  const keys = heads * headDim;
  const values = keys + kvHeads * headDim;
  qkv.backend.scope(() => {
    const prepare = (x: Tensor, normOptions: NormOptions | undefined): Tensor => {
      const normed = (t: Tensor) =>
        normOptions ? norm(t.reshape([t.size / headDim, headDim]), normOptions).reshape(t.shape) : t;
      const turned = (t: Tensor) => (options.rope && cosSin ? rope(t, cosSin, options.rope) : t);
      return options.normAfterRope ? normed(turned(x)) : turned(normed(x));
    };
    const store = (target: Tensor, x: Tensor) =>
      scatterRows(target, target.dtype === 'f32' ? x : cast(x, target.dtype), batch.slots);
    if (heads > 0) copy(q, prepare(slice(qkv, 1, 0, keys), options.qNorm));
    store(cache.keys, prepare(slice(qkv, 1, keys, values), options.kNorm));
    if (cache.values) store(cache.values, slice(qkv, 1, values, qkv.width));
  });
}

export function composedAttention(
  out: Tensor,
  q: Tensor,
  cache: ComposedKvCache,
  batch: Batch,
  options: AttentionOptions,
): void {
  const { backend } = q;
  const { seqStart, kvLen } = batch.host;
  const table = batch.blockTable.reshape([batch.blockTable.size]);
  for (let s = 0; s < batch.sequences; s++) {
    const start = seqStart[s] as number;
    const end = seqStart[s + 1] as number;
    const length = kvLen[s] as number;
    if (start === end) continue;
    backend.scope(() => {
      const at = s * batch.blocksPerSequence;
      const ids = table.rows(at, at + Math.ceil(length / cache.blockSize));
      const load = (from: Tensor): Tensor => {
        const blocks = gatherRows(from.reshape([cache.blocks, cache.blockSize * from.width]), ids);
        const rows = blocks.reshape([ids.size * cache.blockSize, from.width]).rows(0, length);
        return rows.dtype === 'f32' ? rows : cast(rows, 'f32');
      };
      const mask = causalMask(backend, end - start, length, options.window);
      const keys = load(cache.keys);
      const values = cache.values ? load(cache.values) : keys;
      attend(out.rows(start, end), q.rows(start, end), keys, values, mask, options);
    });
  }
}

export function composedDenseAttention(
  out: Tensor,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: Tensor | undefined,
  options: DenseAttentionOptions,
): void {
  const rows = q.shape[0] as number;
  const keys = k.shape[0] as number;
  q.backend.scope(() => {
    if (!options.causal) return attend(out, q, k, v, mask, options);
    const causal = causalMask(q.backend, rows, keys, undefined);
    if (mask === undefined) return attend(out, q, k, v, causal, options);
    const heads = mask.size / causal.size;
    const both = expand(causal.reshape([1, rows, keys]), [heads, rows, keys]);
    attend(out, q, k, v, addInto(both, mask), options);
  });
}

/** `[rows, keys]`: 0 where the query at `keys - rows + i` sees key `j`, else the lowest number. */
function causalMask(backend: Backend, rows: number, keys: number, window: number | undefined): Tensor {
  const query = scaleInto(iota(backend, rows), 1, keys - rows).reshape([rows, 1]);
  const ahead = binary('sub', expand(iota(backend, keys).reshape([1, keys]), [rows, keys]), query);
  const visible = binary('less', ahead, fill(backend, [1], 0.5));
  if (window !== undefined) {
    mulInto(visible, binaryInto('less', unary('neg', ahead), fill(backend, [1], window - 0.5)));
  }
  return scaleInto(visible, -LOWEST, LOWEST);
}

interface Attend {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly scale: number;
  readonly softcap?: number | undefined;
  readonly sinks?: Tensor | undefined;
}

/** One sequence; `v` may be `k` itself, whose heads then begin with the values. `mask` is `[rows, keys]` or `[heads, rows, keys]`. */
function attend(out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | undefined, o: Attend): void {
  const { heads, kvHeads, headDim, valueDim } = o;
  const rows = q.shape[0] as number;
  const keys = k.shape[0] as number;
  const group = heads / kvHeads;
  const byHead = permute(q.reshape([rows, heads, headDim]), [1, 0, 2]).reshape([kvHeads, group * rows, headDim]);
  const apart = (x: Tensor) => {
    const dim = x.width / kvHeads;
    return kvHeads === 1 ? x.reshape([1, keys, dim]) : permute(x.reshape([keys, kvHeads, dim]), [1, 0, 2]);
  };
  const keysByHead = apart(k);
  // Values that lie in the keys: whole keys are mixed, and the result is cut.
  const valuesByHead = v === k ? keysByHead : apart(v);
  let scores = scaleInto(matmul(byHead, keysByHead, true), o.scale);
  if (o.softcap !== undefined) unaryInto('softcap', scores, o.softcap);
  if (mask !== undefined) {
    const whole = mask.size === scores.size ? mask : expand(mask.reshape([1, rows, keys]), [heads, rows, keys]);
    addInto(scores, whole.reshape(scores.shape));
  }
  if (o.sinks !== undefined) {
    const column = expand(o.sinks.reshape([heads, 1, 1]), [heads, rows, 1]);
    scores = concat([scores, column.reshape([kvHeads, group * rows, 1])], 2);
  }
  let weights = softmax(scores);
  if (o.sinks !== undefined) weights = slice(weights, 2, 0, keys);
  const whole = matmul(weights, valuesByHead);
  const mixed = (whole.width === valueDim ? whole : slice(whole, 2, 0, valueDim)).reshape([heads, rows, valueDim]);
  out.backend.ops.permute(out.reshape([rows, heads, valueDim]), mixed, [1, 0, 2]);
}
