/** Tensors that lie in ordinary memory: results handed to a caller, which outlive the model that made them. */
import type { Backend } from './backend.ts';
import type { DType, TypedArray } from './dtype.ts';
import { ShapeError, UnsupportedError } from './errors.ts';
import type { Shape, Storage } from './tensor.ts';
import { sizeOf, Tensor } from './tensor.ts';

class HostStorage implements Storage {
  readonly data: TypedArray;
  constructor(data: TypedArray) {
    this.data = data;
  }
  get bytes(): number {
    return this.data.byteLength;
  }
}

/** Wraps data as a tensor that can be read and reshaped, not computed on; nothing is copied. */
export function hostTensor(data: TypedArray, shape: Shape): Tensor {
  if (sizeOf(shape) !== data.length) {
    throw new ShapeError(`tensor: expected ${sizeOf(shape)} values for shape [${shape}], got ${data.length}`);
  }
  return new Tensor(hostBackend, new HostStorage(data), shape, dtypeOf(data));
}

function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return 'f32';
  if (data instanceof Int32Array) return 'i32';
  return data instanceof Uint8Array ? 'u8' : 'f16';
}

function refuse(what: string): never {
  throw new UnsupportedError(`host tensor: ${what} needs a back-end; upload the values with backend.upload first`, {
    feature: what,
  });
}

function values(t: Tensor): TypedArray {
  const { data } = t.storage as HostStorage;
  return data.subarray(t.offset, t.offset + t.size);
}

const hostBackend: Backend = {
  name: 'host',
  info: { name: 'host', threads: 0, simd: 'off', reason: 'holds results, computes nothing' },
  get ops(): never {
    return refuse('an op');
  },
  get turns(): never {
    return refuse('a step');
  },
  alloc: () => refuse('alloc'),
  allocRows: () => refuse('allocRows'),
  persistent: () => refuse('persistent'),
  upload: (data, shape) => hostTensor(data, shape),
  write(target, data, count = data.length) {
    values(target).set(data.subarray(0, count));
  },
  scope: () => refuse('scope'),
  read: async (t) => values(t).slice(),
  view: async (t) => values(t),
  flush: async () => undefined,
  free: () => undefined,
  loadWeight: () => refuse('loadWeight'),
  memory: () => ({ persistent: 0, arena: 0 }),
  dispose: async () => undefined,
};
