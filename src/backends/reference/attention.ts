import type {
  AttentionOptions,
  Batch,
  DenseAttentionOptions,
  KvCache,
  KvDType,
  KvSpec,
  NormOptions,
  QkvOptions,
} from '../../core/backend.ts';
import { f16ToF32, f32ToF16 } from '../../core/dtype.ts';
import type { Tensor } from '../../core/tensor.ts';
import { dot } from './linear.ts';
import { floats } from './memory.ts';
import { normalizeRow, rotate, softmaxInPlace } from './normalize.ts';

/**
 * Keys and values by slot: `[blocks * blockSize, kvHeads * dim]`, already rounded to the type of the cache. Where values lie
 * in the keys, `values` is the same array.
 */
export class ReferenceKvCache implements KvCache {
  readonly spec: KvSpec;
  readonly blocks: number;
  readonly blockSize: number;
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly #release: (bytes: number) => void;

  constructor(spec: KvSpec, blocks: number, blockSize: number, release: (bytes: number) => void) {
    this.spec = spec;
    this.blocks = blocks;
    this.blockSize = blockSize;
    this.keys = new Float32Array(blocks * blockSize * spec.kvHeads * spec.keyDim);
    this.values = spec.valuesInKeys ? this.keys : new Float32Array(blocks * blockSize * spec.kvHeads * spec.valueDim);
    this.#release = release;
  }

  get bytes(): number {
    return this.keys.byteLength + (this.spec.valuesInKeys ? 0 : this.values.byteLength);
  }

  dispose(): void {
    this.#release(this.bytes);
  }
}

export function copyKvBlock(cache: KvCache, from: number, to: number): void {
  const { keys, values, blocks } = cache as ReferenceKvCache;
  for (const data of keys === values ? [keys] : [keys, values]) {
    const size = data.length / blocks;
    data.copyWithin(to * size, from * size, (from + 1) * size);
  }
}

export function qkvStore(
  q: Tensor,
  qkv: Tensor,
  cosSin: Tensor | undefined,
  cache: KvCache,
  batch: Batch,
  options: QkvOptions,
): void {
  const { heads, kvHeads, headDim, valueDim, rope } = options;
  const { keys, values, spec } = cache as ReferenceKvCache;
  const from = floats(qkv);
  const queries = floats(q);
  const table = cosSin && floats(cosSin);
  const stored = (row: Float32Array, dim: number) => roundRow(row, dim, spec.dtype);
  for (let r = 0; r < batch.rows; r++) {
    const slot = batch.host.slots[r]!;
    const row = from.slice(r * qkv.width, (r + 1) * qkv.width);
    for (let h = 0; h < heads + kvHeads; h++) {
      const head = row.subarray(h * headDim, (h + 1) * headDim);
      const normOptions: NormOptions | undefined = h < heads ? options.qNorm : options.kNorm;
      if (normOptions && !options.normAfterRope) normalizeRow(head, normOptions);
      if (rope && table) rotate(head, 0, table, r, rope);
      if (normOptions && options.normAfterRope) normalizeRow(head, normOptions);
    }
    queries.set(row.subarray(0, heads * headDim), r * heads * headDim);
    keys.set(stored(row.subarray(heads * headDim, (heads + kvHeads) * headDim), headDim), slot * kvHeads * headDim);
    if (!spec.valuesInKeys)
      values.set(stored(row.subarray((heads + kvHeads) * headDim), valueDim), slot * kvHeads * valueDim);
  }
}

/** Heads of `dim` entries as a cache of that type keeps them; `q8_0` rounds as the storage type of that name does. */
function roundRow(heads: Float32Array, dim: number, dtype: KvDType): Float32Array {
  if (dtype === 'f32') return heads;
  if (dtype === 'f16') return heads.map((v) => f16ToF32(f32ToF16(v)));
  const out = new Float32Array(heads.length);
  for (let at = 0; at < heads.length; at += dim) {
    for (let from = at; from < at + dim; from += 32) {
      const group = heads.subarray(from, Math.min(from + 32, at + dim));
      const unit = group.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / 127;
      const scale = f16ToF32(f32ToF16(unit));
      out.set(
        group.map((v) => (unit > 0 ? Math.sign(v) * Math.round(Math.abs(v) / unit) * scale : 0)),
        from,
      );
    }
  }
  return out;
}

export function attention(out: Tensor, q: Tensor, cache: KvCache, batch: Batch, options: AttentionOptions): void {
  const { heads, kvHeads, headDim, valueDim, scale, window = Infinity, softcap, sinks } = options;
  const { keys, values, blockSize, spec } = cache as ReferenceKvCache;
  const valueStride = spec.valuesInKeys ? headDim : valueDim;
  const { seqStart, kvLen, blockTable } = batch.host;
  const queries = floats(q);
  const to = floats(out);
  const sink = sinks && floats(sinks);
  for (let s = 0; s < batch.sequences; s++) {
    const slotOf = (position: number) => {
      const block = blockTable[s * batch.blocksPerSequence + Math.floor(position / blockSize)]!;
      return block * blockSize + (position % blockSize);
    };
    const end = seqStart[s + 1]!;
    for (let r = seqStart[s]!; r < end; r++) {
      const last = kvLen[s]! - (end - r);
      const first = Math.max(0, last - window + 1);
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor((h * kvHeads) / heads);
        const weights = new Float64Array(last - first + 1);
        for (let p = first; p <= last; p++) {
          const key = (slotOf(p) * kvHeads + kvHead) * headDim;
          const score = dot(queries, (r * heads + h) * headDim, keys, key, headDim) * scale;
          weights[p - first] = softcap === undefined ? score : softcap * Math.tanh(score / softcap);
        }
        softmaxInPlace(weights, sink ? sink[h]! : -Infinity);
        for (let d = 0; d < valueDim; d++) {
          let total = 0;
          for (let p = first; p <= last; p++) {
            total += weights[p - first]! * values[(slotOf(p) * kvHeads + kvHead) * valueStride + d]!;
          }
          to[(r * heads + h) * valueDim + d] = total;
        }
      }
    }
  }
}

export function denseAttention(
  out: Tensor,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: Tensor | undefined,
  options: DenseAttentionOptions,
): void {
  const { heads, kvHeads, headDim, valueDim, scale, causal, softcap } = options;
  const queries = floats(q);
  const keys = floats(k);
  const values = floats(v);
  const extra = mask && floats(mask);
  const to = floats(out);
  const rows = q.shape[0]!;
  const count = k.shape[0]!;
  for (let r = 0; r < rows; r++) {
    for (let h = 0; h < heads; h++) {
      const kvHead = Math.floor((h * kvHeads) / heads);
      const weights = new Float64Array(count);
      for (let p = 0; p < count; p++) {
        const score = dot(queries, (r * heads + h) * headDim, keys, (p * kvHeads + kvHead) * headDim, headDim) * scale;
        const capped = softcap === undefined ? score : softcap * Math.tanh(score / softcap);
        const masked = extra ? extra[((h * rows + r) * count + p) % extra.length]! : 0;
        weights[p] = causal && p > r + count - rows ? -Infinity : capped + masked;
      }
      softmaxInPlace(weights, -Infinity);
      for (let d = 0; d < valueDim; d++) {
        let total = 0;
        for (let p = 0; p < count; p++) total += weights[p]! * values[(p * kvHeads + kvHead) * valueDim + d]!;
        to[(r * heads + h) * valueDim + d] = total;
      }
    }
  }
}
