import type {
  AttentionOptions,
  Backend,
  Batch,
  DenseAttentionOptions,
  KvCache,
  KvSpec,
  QkvOptions,
} from '../backend.ts';
import {
  ComposedKvCache,
  composedAttention,
  composedCopyKvBlock,
  composedCreateKvCache,
  composedDenseAttention,
  composedQkvStore,
} from '../composed/attention.ts';
import { UnsupportedError } from '../errors.ts';
import type { Tensor } from '../tensor.ts';
import { needF32, needVector, refuse } from './check.ts';
import { checkRope } from './normalize.ts';

/** Room for `blocks * blockSize` positions of one layer; persistent until disposed. */
export function createKvCache(backend: Backend, spec: KvSpec, blocks: number, blockSize: number): KvCache {
  const counts = [blocks, blockSize, spec.kvHeads, spec.keyDim, spec.valueDim];
  if (counts.some((n) => !Number.isInteger(n) || n < 1)) {
    refuse('createKvCache', 'positive whole blocks, blockSize, kvHeads, keyDim and valueDim', `${counts}`);
  }
  const { ops } = backend;
  if (spec.valuesInKeys && spec.valueDim > spec.keyDim) {
    refuse('createKvCache', `values of at most the ${spec.keyDim} entries of a key`, `${spec.valueDim}`);
  }
  return ops.createKvCache?.(spec, blocks, blockSize) ?? composedCreateKvCache(backend, spec, blocks, blockSize);
}

/** Copies block `from` of a cache over block `to`. */
export function copyKvBlock(backend: Backend, cache: KvCache, from: number, to: number): void {
  const inside = (block: number) => Number.isInteger(block) && block >= 0 && block < cache.blocks;
  if (!inside(from) || !inside(to)) refuse('copyKvBlock', `blocks below ${cache.blocks}`, `${from} and ${to}`);
  if (from === to) return;
  if (cache instanceof ComposedKvCache) composedCopyKvBlock(cache, from, to);
  else if (backend.ops.copyKvBlock) backend.ops.copyKvBlock(cache, from, to);
  else missing(backend, 'copyKvBlock');
}

/**
 * Norms, rotates and splits fused rows `[rows, (heads + kvHeads) * headDim + kvHeads * valueDim]`: keys and values go into
 * the cache at `batch.slots`, queries `[rows, heads * headDim]` are the result. Rows of a cache with its values in the keys
 * have none.
 */
export function qkvStore(
  qkv: Tensor,
  cosSin: Tensor | undefined,
  cache: KvCache,
  batch: Batch,
  options: QkvOptions,
): Tensor {
  const { heads, kvHeads, headDim, valueDim, rope, qNorm, kNorm } = options;
  needF32('qkvStore', 'qkv', qkv);
  const ownValues = cache.spec.valuesInKeys ? 0 : valueDim;
  if (qkv.shape.length !== 2 || qkv.width !== (heads + kvHeads) * headDim + kvHeads * ownValues) {
    refuse('qkvStore', `[rows, (${heads} + ${kvHeads}) * ${headDim} + ${kvHeads} * ${ownValues}]`, qkv);
  }
  if (qkv.shape[0] !== batch.rows) refuse('qkvStore', `${batch.rows} rows`, qkv);
  checkCache('qkvStore', cache, kvHeads, headDim, valueDim);
  if (rope !== undefined) {
    if (cosSin === undefined) refuse('qkvStore', 'cosSin for the rotation', 'none');
    if (rope.headDim !== headDim) refuse('qkvStore', `a rotation of heads of ${headDim}`, `${rope.headDim}`);
    checkRope('qkvStore', cosSin, batch.rows, rope);
  }
  needVector('qkvStore', 'query norm weight', qNorm?.weight, headDim);
  needVector('qkvStore', 'key norm weight', kNorm?.weight, headDim);
  const { backend } = qkv;
  const q = backend.allocRows(batch.rows, heads * headDim);
  if (qkv.size) {
    if (cache instanceof ComposedKvCache) composedQkvStore(q, qkv, cosSin, cache, batch, options);
    else if (backend.ops.qkvStore) backend.ops.qkvStore(q, qkv, cosSin, cache, batch, options);
    else missing(backend, 'qkvStore');
  }
  return q;
}

/**
 * Causal attention of every row of `q` over the cached positions of its sequence: `[rows, heads * valueDim]`. The rows of
 * the step itself must have been stored before.
 */
export function attention(q: Tensor, cache: KvCache, batch: Batch, options: AttentionOptions): Tensor {
  const { heads, kvHeads, headDim, valueDim } = options;
  needF32('attention', 'q', q);
  if (q.shape.length !== 2 || q.width !== heads * headDim || q.shape[0] !== batch.rows) {
    refuse('attention', `q [${batch.rows}, ${heads} * ${headDim}]`, q);
  }
  if (heads % kvHeads !== 0) refuse('attention', 'heads that kvHeads divide', `${heads} and ${kvHeads}`);
  checkCache('attention', cache, kvHeads, headDim, valueDim);
  needVector('attention', 'sinks', options.sinks, heads);
  const { backend } = q;
  const out = backend.allocRows(batch.rows, heads * valueDim);
  if (out.size) {
    if (cache instanceof ComposedKvCache) composedAttention(out, q, cache, batch, options);
    else if (backend.ops.attention) backend.ops.attention(out, q, cache, batch, options);
    else missing(backend, 'attention');
  }
  return out;
}

function checkCache(op: string, cache: KvCache, kvHeads: number, keyDim: number, valueDim: number): void {
  const s = cache.spec;
  if (s.kvHeads !== kvHeads || s.keyDim !== keyDim || s.valueDim !== valueDim) {
    refuse(
      op,
      `a cache of ${kvHeads} heads of ${keyDim} and ${valueDim}`,
      `${s.kvHeads} heads of ${s.keyDim} and ${s.valueDim}`,
    );
  }
}

function missing(backend: Backend, op: string): never {
  throw new UnsupportedError(
    `${op}: expected the back-end "${backend.name}" to have it beside createKvCache, got none; a back-end implements createKvCache, copyKvBlock, qkvStore and attention together`,
    { feature: op },
  );
}

/**
 * Attention over explicit keys and values `[keys, kvHeads * dim]`, without cache. `mask` is added to the scaled scores and
 * is `[rows, keys]`, or `[heads, rows, keys]`. With `causal`, the last query sees the last key.
 */
export function denseAttention(q: Tensor, k: Tensor, v: Tensor, options: DenseAttentionOptions, mask?: Tensor): Tensor {
  const { heads, kvHeads, headDim, valueDim } = options;
  needF32('denseAttention', 'q', q);
  needF32('denseAttention', 'k', k);
  needF32('denseAttention', 'v', v);
  if (q.shape.length !== 2 || q.width !== heads * headDim) {
    refuse('denseAttention', `q [rows, ${heads} * ${headDim}]`, q);
  }
  if (heads % kvHeads !== 0) refuse('denseAttention', 'heads that kvHeads divide', `${heads} and ${kvHeads}`);
  const rows = q.shape[0] as number;
  const keys = k.shape[0] as number;
  if (k.shape.length !== 2 || k.width !== kvHeads * headDim || v.shape[0] !== keys || v.width !== kvHeads * valueDim) {
    refuse('denseAttention', `k [keys, ${kvHeads} * ${headDim}] and v [keys, ${kvHeads} * ${valueDim}]`, k, v);
  }
  if (keys < 1 || (options.causal && keys < rows)) {
    refuse('denseAttention', options.causal ? 'at least as many keys as rows' : 'at least one key', q, k);
  }
  if (mask !== undefined) {
    needF32('denseAttention', 'mask', mask);
    if (mask.size !== rows * keys && mask.size !== heads * rows * keys) {
      refuse('denseAttention', `a mask [${rows}, ${keys}] or [${heads}, ${rows}, ${keys}]`, mask);
    }
  }
  const out = q.backend.allocRows(rows, heads * valueDim);
  const { ops } = q.backend;
  if (out.size) {
    if (ops.denseAttention) ops.denseAttention(out, q, k, v, mask, options);
    else composedDenseAttention(out, q, k, v, mask, options);
  }
  return out;
}
