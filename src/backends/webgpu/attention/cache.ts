import type { KvCache, KvDType, KvSpec, OptionalOps } from '../../../core/backend.ts';
import { lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import type { GpuStorage } from '../storage.ts';
import { ITEM, LANES } from '../wgsl.ts';

/** Entries of a row of a q8_0 cache that share a scale. */
export const GROUP = 32;
/** Words of a whole group: its scale, then its entries, four to a word. */
export const GROUP_WORDS = 1 + GROUP / 4;

/** Element types by the number that tells their kernels apart. */
export const CACHE_TYPES: readonly KvDType[] = ['f32', 'f16', 'q8_0'];

/** Words of a quad of entries, of which the kernels of attention read one at a time. */
export const QUAD_WORDS: Readonly<Record<KvDType, number>> = { f32: 4, f16: 2, q8_0: 1 };

/** Words of a row of `dim` entries, padded with zeros to whole quads. */
function wordsOf(dim: number, dtype: KvDType): number {
  const words = Math.ceil(dim / 4) * QUAD_WORDS[dtype];
  return dtype === 'q8_0' ? words + Math.ceil(dim / GROUP) : words;
}

/**
 * Keys and values as `[blocks, kvHeads, blockSize, row]`, so that a head's part of a block is one run. Values that lie in
 * the keys have no buffer of their own.
 */
export class GpuKvCache implements KvCache {
  readonly spec: KvSpec;
  readonly blocks: number;
  readonly blockSize: number;
  readonly keys: GpuStorage;
  readonly values: GpuStorage;
  /** Words of a row. */
  readonly keyWords: number;
  readonly valueWords: number;
  /** Number of the element type. */
  readonly type: number;
  readonly #host: OpHost;

  constructor(host: OpHost, spec: KvSpec, blocks: number, blockSize: number) {
    this.#host = host;
    this.spec = spec;
    this.blocks = blocks;
    this.blockSize = blockSize;
    this.type = CACHE_TYPES.indexOf(spec.dtype);
    this.keyWords = wordsOf(spec.keyDim, spec.dtype);
    this.valueWords = spec.valuesInKeys ? this.keyWords : wordsOf(spec.valueDim, spec.dtype);
    const create = (words: number, label: string) => host.create(blocks * blockSize * spec.kvHeads * words * 4, label);
    this.keys = create(this.keyWords, 'cached keys');
    if (spec.valuesInKeys) this.values = this.keys;
    else {
      try {
        this.values = create(this.valueWords, 'cached values');
      } catch (error) {
        host.release(this.keys);
        throw error;
      }
    }
  }

  get bytes(): number {
    return this.keys.bytes + (this.values === this.keys ? 0 : this.values.bytes);
  }

  /** Words of one block in `storage`. */
  blockWords(storage: GpuStorage): number {
    return this.blockSize * this.spec.kvHeads * (storage === this.keys ? this.keyWords : this.valueWords);
  }

  dispose(): void {
    this.#host.release(this.keys);
    this.#host.release(this.values);
  }
}

/** WebGPU copies between different buffers only, so blocks are copied by a kernel. */
const copySource = (): KernelSource => ({
  label: 'copy block',
  reads: [],
  writes: [['data', 'u32']],
  numbers: [
    ['n', 'u32'],
    ['source', 'u32'],
    ['goal', 'u32'],
  ],
  workgroup: [LANES, 1, 1],
  body: `${ITEM}
if (item >= p.n) { return; }
set_data(p.goal + item, data(p.source + item));`,
});

export function cacheOps(host: OpHost): Pick<OptionalOps, 'createKvCache' | 'copyKvBlock'> {
  const copy = lazy(host, copySource);
  const copyIn = (cache: GpuKvCache, storage: GpuStorage, from: number, to: number) => {
    const n = cache.blockWords(storage);
    host.recorder
      .start(copy())
      .bindStorage(storage)
      .u(n)
      .u(from * n)
      .u(to * n)
      .dispatchItems(n, LANES);
  };
  return {
    createKvCache: (spec, blocks, blockSize) => new GpuKvCache(host, spec, blocks, blockSize),
    copyKvBlock(cache, from, to) {
      const c = cache as GpuKvCache;
      copyIn(c, c.keys, from, to);
      if (c.values !== c.keys) copyIn(c, c.values, from, to);
    },
  };
}
