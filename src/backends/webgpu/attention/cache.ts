import type { KvCache, KvSpec, OptionalOps } from '../../../core/backend.ts';
import { floatsOf } from '../../../core/composed/attention.ts';
import { lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import type { GpuStorage } from '../storage.ts';
import { ITEM, LANES } from '../wgsl.ts';

/** Words of a row of `dim` entries: padded with zeros to quads, a quad being four words or two of packed halves. */
const wordsOf = (dim: number, half: boolean) => Math.ceil(dim / 4) * (half ? 2 : 4);

/**
 * Keys and values as `[blocks, kvHeads, blockSize, row]`, so that a head's part of a block is one run. Values that lie in
 * the keys have no buffer of their own.
 */
export class GpuKvCache implements KvCache {
  readonly spec: KvSpec;
  readonly blocks: number;
  readonly blockSize: number;
  readonly half: boolean;
  readonly keys: GpuStorage;
  readonly values: GpuStorage;
  /** Quads of a row. */
  readonly keyQuads: number;
  readonly valueQuads: number;
  readonly #host: OpHost;

  constructor(host: OpHost, spec: KvSpec, blocks: number, blockSize: number) {
    this.#host = host;
    this.spec = spec;
    this.blocks = blocks;
    this.blockSize = blockSize;
    this.half = floatsOf(spec, 'webgpu') === 'f16';
    this.keyQuads = Math.ceil(spec.keyDim / 4);
    this.valueQuads = spec.valuesInKeys ? this.keyQuads : Math.ceil(spec.valueDim / 4);
    const create = (dim: number, label: string) =>
      host.create(blocks * blockSize * spec.kvHeads * wordsOf(dim, this.half) * 4, label);
    this.keys = create(spec.keyDim, 'cached keys');
    if (spec.valuesInKeys) this.values = this.keys;
    else {
      try {
        this.values = create(spec.valueDim, 'cached values');
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
    const { spec, blockSize, half } = this;
    return blockSize * spec.kvHeads * wordsOf(storage === this.keys ? spec.keyDim : spec.valueDim, half);
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
