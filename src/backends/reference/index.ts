import { Arena } from '../../core/arena.ts';
import type { Backend, BackendInfo, KvSpec, Ops, RawWeight, RequiredOps, WeightData } from '../../core/backend.ts';
import { DTYPE_BYTES, type DType, type TypedArray } from '../../core/dtype.ts';
import { InferenceError, ShapeError } from '../../core/errors.ts';
import { describe, type Shape, sizeOf, Tensor } from '../../core/tensor.ts';
import { Turns } from '../../core/turns.ts';
import * as attention from './attention.ts';
import * as elementwise from './elementwise.ts';
import * as layout from './layout.ts';
import * as linear from './linear.ts';
import { dataOf, HostStorage } from './memory.ts';
import * as normalize from './normalize.ts';
import * as recurrent from './recurrent.ts';
import * as reduce from './reduce.ts';
import * as spatial from './spatial.ts';
import * as statistics from './statistics.ts';
import { ReferenceWeight } from './weight.ts';

export interface ReferenceOptions {
  /** Leaves out the optional ops, so that their compositions run. */
  readonly requiredOnly?: boolean;
}

const ARENA_CHUNK_BYTES = 1 << 20;

/**
 * Plain loops in double precision over f32 storage: slow and right. It defines what every op means; the other back-ends
 * are compared with it.
 */
export class ReferenceBackend implements Backend {
  readonly name = 'reference';
  readonly info: BackendInfo = {
    name: 'reference',
    threads: 1,
    simd: 'off',
    reason: 'plain loops in double precision',
  };
  readonly ops: Ops;
  readonly turns = new Turns();
  readonly #arena: Arena<HostStorage>;
  readonly #persistent = new Set<HostStorage>();
  #weightBytes = 0;
  #disposed = false;

  constructor(options: ReferenceOptions = {}) {
    this.#arena = new Arena<HostStorage>(
      {
        chunk: (bytes) => new HostStorage(bytes),
        release: () => {},
        tensor: (storage, shape, dtype, offset) => new Tensor(this, storage, shape, dtype, offset),
      },
      ARENA_CHUNK_BYTES,
    );
    const { unary, binary, select, cast } = elementwise;
    const { slice, concat, permute, expand, pad, gatherRows, scatterRows } = layout;
    const { cumsum, topk } = reduce;
    const required: RequiredOps = {
      ...{ unary, binary, select, cast, slice, concat, permute, expand, pad, gatherRows, scatterRows, cumsum, topk },
      reduce: reduce.reduce,
      matmul: linear.matmul,
      linear: linear.linear,
      conv: spatial.conv,
      resize: spatial.resize,
    };
    const { norm, addNorm, softmax, glu, rope } = normalize;
    const { convTranspose, pool } = spatial;
    const { causalConv, ssmScan, gatedDelta } = recurrent;
    const { addSquares, addExpertSquares } = statistics;
    const { qkvStore, denseAttention, copyKvBlock } = attention;
    const createKvCache = (spec: KvSpec, blocks: number, blockSize: number) => {
      const cache = new attention.ReferenceKvCache(spec, blocks, blockSize, this.#release);
      this.#weightBytes += cache.bytes;
      return cache;
    };
    this.ops = options.requiredOnly
      ? required
      : {
          ...required,
          ...{
            norm,
            addNorm,
            softmax,
            glu,
            rope,
            convTranspose,
            pool,
            causalConv,
            ssmScan,
            gatedDelta,
            addSquares,
            addExpertSquares,
            qkvStore,
            denseAttention,
            createKvCache,
            copyKvBlock,
          },
          attention: attention.attention,
          linearExperts: linear.linearExperts,
        };
  }

  alloc(shape: Shape, dtype: DType = 'f32'): Tensor {
    this.#check();
    return this.#arena.active ? this.#arena.take(shape, dtype) : this.persistent(shape, dtype);
  }

  allocRows(rows: number, width: number): Tensor {
    this.#check();
    return this.#arena.active ? this.#arena.rows(rows, width) : this.persistent([rows, width]);
  }

  persistent(shape: Shape, dtype: DType = 'f32'): Tensor {
    this.#check();
    const storage = new HostStorage(sizeOf(shape) * DTYPE_BYTES[dtype]);
    this.#persistent.add(storage);
    return new Tensor(this, storage, [...shape], dtype);
  }

  upload(data: TypedArray, shape: Shape, dtype: DType = dtypeOf(data)): Tensor {
    const t = this.persistent(shape, dtype);
    this.write(t, data);
    return t;
  }

  write(target: Tensor, data: TypedArray, count = data.length): void {
    const to = dataOf(target);
    if (count > to.length || count > data.length || to.constructor !== data.constructor) {
      throw new ShapeError(
        `write: expected up to ${Math.min(to.length, data.length)} elements of ${describe(target)}, got ${count} of ${data.constructor.name}`,
      );
    }
    to.set(count === data.length ? data : data.subarray(0, count));
  }

  scope(body: () => void): void {
    this.#check();
    this.#arena.scope(body);
  }

  async read(t: Tensor): Promise<TypedArray> {
    return dataOf(t).slice();
  }

  async view(t: Tensor): Promise<TypedArray> {
    return dataOf(t);
  }

  async flush(): Promise<void> {}

  free(t: Tensor): void {
    this.#persistent.delete(t.storage as HostStorage);
  }

  async loadWeight(raw: RawWeight): Promise<WeightData> {
    this.#check();
    const weight = await ReferenceWeight.load(raw, this.#release);
    this.#weightBytes += weight.bytes;
    return weight;
  }

  memory(): { readonly persistent: number; readonly arena: number } {
    let persistent = this.#weightBytes;
    for (const s of this.#persistent) persistent += s.bytes;
    return { persistent, arena: this.#arena.bytes };
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    this.#persistent.clear();
    this.#arena.dispose();
  }

  readonly #release = (bytes: number): void => {
    this.#weightBytes -= bytes;
  };

  #check(): void {
    if (this.#disposed) {
      throw new InferenceError('reference: expected a live back-end, got a disposed one; create another');
    }
  }
}

function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return 'f32';
  if (data instanceof Int32Array) return 'i32';
  return data instanceof Uint8Array ? 'u8' : 'f16';
}
