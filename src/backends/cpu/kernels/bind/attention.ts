import type { Batch, KvCache, KvSpec, NormOptions, OptionalOps } from '../../../../core/backend.ts';
import { composedDenseAttention } from '../../../../core/composed/attention.ts';
import { ShapeError, UnsupportedError } from '../../../../core/errors.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { attend, attendLatent } from '../attention/attend.ts';
import {
  type CacheGeometry,
  CHUNK,
  geometryOf,
  PARTIAL_HEADER,
  SEGMENT_CHUNKS,
  scratchBytes,
  WIDE,
} from '../attention/layout.ts';
import { mergeAttention } from '../attention/merge.ts';
import { HEAD_NORM, kvStore, qkvStoreF32, qkvStoreI8, qkvStoreI16 } from '../attention/store.ts';
import { stridedCopy } from '../strided.ts';

export const attentionKernels = [
  ...([...Object.values(attend), ...Object.values(attendLatent), mergeAttention, kvStore] as readonly Kernel[]),
  ...([qkvStoreF32, qkvStoreI16, qkvStoreI8] as readonly Kernel[]),
];

/** Queries of a tile: their states and outputs stay in the first-level cache beside a chunk. */
const TILE_QUERIES = 32;

const KINDS = { f32: 'f32', f16: 'i16', q8_0: 'i8' } as const;

/** Keys and values in chunks, see `attention/layout.ts`. */
export class CpuKvCache implements KvCache {
  readonly spec: KvSpec;
  readonly blocks: number;
  readonly blockSize: number;
  readonly bytes: number;
  readonly geometry: CacheGeometry;
  readonly address: number;
  /** Distance of key heads in bytes. */
  readonly headStride: number;
  readonly #host: OpHost;
  #disposed = false;

  constructor(host: OpHost, spec: KvSpec, blocks: number, blockSize: number) {
    this.#host = host;
    this.spec = spec;
    this.blocks = blocks;
    this.blockSize = blockSize;
    this.geometry = geometryOf(KINDS[spec.dtype], spec.keyDim, spec.valueDim, spec.valuesInKeys);
    this.headStride = (blocks * blockSize * this.geometry.chunkBytes) / CHUNK;
    this.bytes = spec.kvHeads * this.headStride;
    this.address = host.allocate(this.bytes, `cache of ${blocks * blockSize} positions`);
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#host.release(this.address);
  }
}

type AttentionOps = Pick<OptionalOps, 'createKvCache' | 'copyKvBlock' | 'qkvStore' | 'attention' | 'denseAttention'>;

export function attentionOps(host: OpHost): AttentionOps {
  const entriesOf = ({ f32, i16, i8 }: typeof attend) => ({
    f32: host.entry(f32 as Kernel),
    i16: host.entry(i16 as Kernel),
    i8: host.entry(i8 as Kernel),
  });
  const attendEntries = entriesOf(attend);
  const latentEntries = entriesOf(attendLatent);
  const store = {
    f32: host.entry(qkvStoreF32 as Kernel),
    i16: host.entry(qkvStoreI16 as Kernel),
    i8: host.entry(qkvStoreI8 as Kernel),
  };
  const merge = host.entry(mergeAttention as Kernel);
  const copy = host.entry(stridedCopy as Kernel);
  const storePairs = host.entry(kvStore as Kernel);

  return {
    createKvCache(spec, blocks, blockSize) {
      if (blockSize % CHUNK !== 0) {
        throw new ShapeError(`createKvCache: expected a block size that is a multiple of ${CHUNK}, got ${blockSize}`);
      }
      return new CpuKvCache(host, spec, blocks, blockSize);
    },

    copyKvBlock(cache, from, to) {
      const { geometry, address, headStride, blockSize, spec } = cache as CpuKvCache;
      const bytes = (blockSize / CHUNK) * geometry.chunkBytes;
      const { at } = stridedCopy;
      const c = host.begin(copy);
      const { words } = host;
      words[c + at.out] = address + to * bytes;
      words[c + at.x] = address + from * bytes;
      words[c + at.shift] = 2;
      for (const size of [at.d0, at.d1, at.d2, at.d3]) words[c + size] = 1;
      for (const stride of [at.s0, at.s1, at.s2, at.s3, at.t0, at.t1, at.t2, at.t3]) words[c + stride] = 0;
      words[c + at.d4] = spec.kvHeads;
      words[c + at.s4] = headStride / 4;
      words[c + at.t4] = headStride / 4;
      words[c + at.d5] = bytes / 4;
      words[c + at.s5] = 1;
      words[c + at.t5] = 1;
    },

    qkvStore(q, qkv, cosSin, cache, batch, o) {
      const { geometry, address, headStride, spec } = cache as CpuKvCache;
      checkHeadNorm(o.qNorm);
      checkHeadNorm(o.kNorm);
      const stride = Math.max(4 * (o.headDim + 4), geometry.valueGroups * WIDE * 4);
      const scratchStride = Math.ceil(stride / 64) * 64;
      const scratch = host.scratch(scratchStride * host.threads);
      // Both kernels have the same arguments at the same places.
      const { at } = qkvStoreF32;
      const c = host.begin(store[geometry.kind]);
      const { words, floats } = host;
      words[c + at.qkv] = host.address(qkv);
      words[c + at.q] = host.address(q);
      words[c + at.cosSin] = cosSin ? host.address(cosSin) : 0;
      words[c + at.cache] = address;
      words[c + at.slots] = host.address(batch.slots);
      words[c + at.rows] = batch.rows;
      words[c + at.heads] = o.heads;
      words[c + at.kvHeads] = o.kvHeads;
      words[c + at.headDim] = o.headDim;
      words[c + at.valueDim] = spec.valuesInKeys ? 0 : o.valueDim;
      words[c + at.half] = o.rope ? o.rope.rotaryDim / 2 : 0;
      words[c + at.interleaved] = o.rope?.interleaved ? 1 : 0;
      words[c + at.normAfterRope] = o.normAfterRope ? 1 : 0;
      words[c + at.keySteps] = geometry.keySteps;
      words[c + at.valueGroups] = geometry.valueGroups;
      words[c + at.chunkBytes] = geometry.chunkBytes;
      words[c + at.headStride] = headStride;
      words[c + at.scratch] = scratch;
      words[c + at.scratchStride] = scratchStride;
      words[c + at.qNorm] = headNorm(o.qNorm);
      words[c + at.qWeight] = o.qNorm?.weight ? host.address(o.qNorm.weight) : 0;
      words[c + at.qBias] = o.qNorm?.bias ? host.address(o.qNorm.bias) : 0;
      floats[c + at.qEps] = o.qNorm?.eps ?? 0;
      floats[c + at.qPlus] = o.qNorm?.plusOne ? 1 : 0;
      words[c + at.kNorm] = headNorm(o.kNorm);
      words[c + at.kWeight] = o.kNorm?.weight ? host.address(o.kNorm.weight) : 0;
      words[c + at.kBias] = o.kNorm?.bias ? host.address(o.kNorm.bias) : 0;
      floats[c + at.kEps] = o.kNorm?.eps ?? 0;
      floats[c + at.kPlus] = o.kNorm?.plusOne ? 1 : 0;
    },

    attention(out, q, cache, batch, o) {
      const { geometry, address, headStride, blockSize, spec } = cache as CpuKvCache;
      const group = o.heads / o.kvHeads;
      const tileRows = Math.max(1, Math.floor(TILE_QUERIES / group));
      const split = splitsContexts(batch, o.kvHeads, tileRows, o.window ?? 0, host.threads);
      const scratchStride = Math.ceil(scratchBytes(geometry, tileRows * group) / 64) * 64;
      const scratch = host.scratch(scratchStride * host.threads);
      const partial = split
        ? host.scratch(
            segmentsIn(batch) * o.kvHeads * tileRows * group * (geometry.valueGroups * WIDE + PARTIAL_HEADER) * 4,
          )
        : 0;
      const sinks = o.sinks ? host.address(o.sinks) : 0;
      const { at } = attend.f32;
      const c = host.begin((spec.valuesInKeys ? latentEntries : attendEntries)[geometry.kind]);
      const { words, floats } = host;
      words[c + at.out] = host.address(out);
      words[c + at.q] = host.address(q);
      words[c + at.cache] = address;
      words[c + at.blockTable] = host.address(batch.blockTable);
      words[c + at.seqStart] = host.address(batch.seqStart);
      words[c + at.kvLen] = host.address(batch.kvLen);
      words[c + at.sinks] = sinks;
      words[c + at.scratch] = scratch;
      words[c + at.scratchStride] = scratchStride;
      words[c + at.partial] = partial;
      words[c + at.sequences] = batch.sequences;
      words[c + at.blocksPerSequence] = batch.blocksPerSequence;
      words[c + at.chunksPerBlock] = blockSize / CHUNK;
      words[c + at.kvHeads] = o.kvHeads;
      words[c + at.group] = group;
      words[c + at.headDim] = o.headDim;
      words[c + at.valueDim] = o.valueDim;
      words[c + at.keySteps] = geometry.keySteps;
      words[c + at.valueGroups] = geometry.valueGroups;
      words[c + at.chunkBytes] = geometry.chunkBytes;
      words[c + at.headStride] = headStride;
      words[c + at.tileRows] = tileRows;
      words[c + at.segmentChunks] = SEGMENT_CHUNKS;
      words[c + at.split] = split ? 1 : 0;
      words[c + at.causal] = 1;
      words[c + at.window] = o.window ?? 0;
      floats[c + at.scale] = o.scale;
      floats[c + at.softcap] = o.softcap ?? 0;
      if (split) {
        const { at: to } = mergeAttention;
        const d = host.begin(merge);
        words[d + to.out] = host.address(out);
        words[d + to.partial] = partial;
        words[d + to.seqStart] = host.address(batch.seqStart);
        words[d + to.kvLen] = host.address(batch.kvLen);
        words[d + to.sinks] = sinks;
        words[d + to.sequences] = batch.sequences;
        words[d + to.kvHeads] = o.kvHeads;
        words[d + to.group] = group;
        words[d + to.valueDim] = o.valueDim;
        words[d + to.valueGroups] = geometry.valueGroups;
        words[d + to.tileRows] = tileRows;
        words[d + to.segmentChunks] = SEGMENT_CHUNKS;
        words[d + to.window] = o.window ?? 0;
      }
    },

    denseAttention(out, q, k, v, mask, o) {
      if (mask) {
        composedDenseAttention(out, q, k, v, mask, o);
        return;
      }
      // A cache for this call only, then the paged kernel over its single block.
      const [rows, keys] = [q.shape[0]!, k.shape[0]!];
      const g = geometryOf('f32', o.headDim, o.valueDim);
      const chunks = Math.ceil(keys / CHUNK);
      const headStride = chunks * g.chunkBytes;
      const group = o.heads / o.kvHeads;
      const tileRows = Math.max(1, Math.floor(TILE_QUERIES / group));
      const scratchStride = Math.ceil(scratchBytes(g, tileRows * group) / 64) * 64;
      const scratch = host.scratch(scratchStride * host.threads);
      const table = host.scratch(16);
      const cache = host.scratch(o.kvHeads * headStride);
      const { at: to } = kvStore;
      const d = host.begin(storePairs);
      const { words, floats } = host;
      words[d + to.k] = host.address(k);
      words[d + to.v] = host.address(v);
      words[d + to.cache] = cache;
      words[d + to.table] = table;
      words[d + to.rows] = keys;
      words[d + to.queries] = rows;
      words[d + to.kvHeads] = o.kvHeads;
      words[d + to.headDim] = o.headDim;
      words[d + to.valueDim] = o.valueDim;
      words[d + to.valueGroups] = g.valueGroups;
      words[d + to.chunkBytes] = g.chunkBytes;
      words[d + to.headStride] = headStride;
      words[d + to.scratch] = scratch;
      words[d + to.scratchStride] = scratchStride;
      const { at } = attend.f32;
      const c = host.begin(attendEntries.f32);
      words[c + at.out] = host.address(out);
      words[c + at.q] = host.address(q);
      words[c + at.cache] = cache;
      words[c + at.seqStart] = table;
      words[c + at.kvLen] = table + 8;
      words[c + at.blockTable] = table + 12;
      words[c + at.sinks] = 0;
      words[c + at.scratch] = scratch;
      words[c + at.scratchStride] = scratchStride;
      words[c + at.partial] = 0;
      words[c + at.sequences] = 1;
      words[c + at.blocksPerSequence] = 1;
      words[c + at.chunksPerBlock] = chunks;
      words[c + at.kvHeads] = o.kvHeads;
      words[c + at.group] = group;
      words[c + at.headDim] = o.headDim;
      words[c + at.valueDim] = o.valueDim;
      words[c + at.keySteps] = g.keySteps;
      words[c + at.valueGroups] = g.valueGroups;
      words[c + at.chunkBytes] = g.chunkBytes;
      words[c + at.headStride] = headStride;
      words[c + at.tileRows] = tileRows;
      words[c + at.segmentChunks] = SEGMENT_CHUNKS;
      words[c + at.split] = 0;
      words[c + at.causal] = o.causal ? 1 : 0;
      words[c + at.window] = 0;
      floats[c + at.scale] = o.scale;
      floats[c + at.softcap] = o.softcap ?? 0;
    },
  };
}

function headNorm(o: NormOptions | undefined): number {
  if (o === undefined) return HEAD_NORM.none;
  return o.kind === 'layer' ? HEAD_NORM.layer : o.kind === 'l2' ? HEAD_NORM.l2 : HEAD_NORM.rms;
}

function checkHeadNorm(o: NormOptions | undefined): void {
  if (o && (o.kind === 'group' || (o.groups ?? 1) !== 1)) {
    throw new UnsupportedError(`qkvStore: expected an ungrouped norm of heads, got ${o.kind} of ${o.groups} groups`);
  }
}

/**
 * Whether threads share the segments of a context: only where there are fewer tiles than they can share evenly, and every
 * sequence is a single tile. The result is the same either way.
 */
function splitsContexts(batch: Batch, kvHeads: number, tileRows: number, window: number, threads: number): boolean {
  if (threads === 1) return false;
  const { seqStart, kvLen } = batch.host;
  let tiles = 0;
  let longest = 0;
  for (let s = 0; s < batch.sequences; s++) {
    const rows = seqStart[s + 1]! - seqStart[s]!;
    if (rows > tileRows) return false;
    if (rows === 0) continue;
    tiles += kvHeads;
    const seen = window ? Math.min(kvLen[s]!, window + rows) : kvLen[s]!;
    longest = Math.max(longest, Math.ceil(seen / CHUNK));
  }
  return tiles < 4 * threads && tiles % threads !== 0 && longest > SEGMENT_CHUNKS;
}

/** An upper bound of the segments of all sequences. */
function segmentsIn(batch: Batch): number {
  let segments = 0;
  for (let s = 0; s < batch.sequences; s++) {
    segments += Math.ceil(Math.ceil(batch.host.kvLen[s]! / CHUNK) / SEGMENT_CHUNKS);
  }
  return segments;
}
