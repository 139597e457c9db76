/** What a conformance case sees of a back-end: inputs at odd offsets between canaries, weights, packed batches. */
import type { Backend, Batch, RawWeight } from '../../src/core/backend.ts';
import { rowBytes, type StorageTypeName, storageType, type TypedArray } from '../../src/core/dtype.ts';
import { sizeOf, type Tensor } from '../../src/core/tensor.ts';
import { Weight } from '../../src/core/weight.ts';
import { quantize } from '../../src/quant/index.ts';
import { Random } from './random.ts';

const CANARY = 12345.5;

export interface WeightSpec {
  readonly shape: readonly [number, number];
  readonly type: StorageTypeName;
}

export interface SequenceSpec {
  /** Positions cached by earlier steps. */
  readonly past: number;
  /** Rows of this step. */
  readonly rows: number;
}

interface Input {
  readonly base: Tensor;
  readonly before: number;
  readonly size: number;
  readonly values: TypedArray;
  readonly constant: boolean;
}

export class Environment {
  readonly backend: Backend;
  readonly random: Random;
  readonly weights: readonly Weight[];
  readonly #inputs: Input[] = [];
  readonly #disposables: { dispose(): void }[] = [];

  constructor(backend: Backend, seed: number, weights: readonly Weight[]) {
    this.backend = backend;
    this.random = new Random(seed);
    this.weights = weights;
  }

  /** Normal numbers; `constant: false` where the op may write. */
  normal(shape: readonly number[], spread = 1, constant = true): Tensor {
    return this.put(this.random.normals(sizeOf(shape), spread), shape, constant);
  }

  integers(shape: readonly number[], below: number): Tensor {
    return this.put(this.random.integers(sizeOf(shape), below), shape);
  }

  /** A view into a larger tensor, with canaries on both sides. */
  put(values: Float32Array | Int32Array, shape: readonly number[], constant = true): Tensor {
    const before = this.random.below(4);
    const after = this.random.below(4) + 1;
    const padded = values instanceof Float32Array ? new Float32Array(before + values.length + after) : undefined;
    const all = padded ?? new Int32Array(before + values.length + after);
    all.fill(Math.trunc(CANARY));
    all.set(values, before);
    const base = this.backend.upload(all, [all.length]);
    this.#inputs.push({ base, before, size: values.length, values: values.slice(), constant });
    this.#disposables.push(base);
    return base.rows(before, before + values.length).reshape([...shape]);
  }

  keep<T extends { dispose(): void }>(thing: T): T {
    this.#disposables.push(thing);
    return thing;
  }

  /** What was damaged: canaries, or inputs the op must not write. */
  async damage(): Promise<string[]> {
    const found: string[] = [];
    for (const [i, input] of this.#inputs.entries()) {
      const now = await input.base.read();
      const end = input.before + input.size;
      now.forEach((v, at) => {
        const inside = at >= input.before && at < end;
        const expected = inside ? input.values[at - input.before] : Math.trunc(CANARY);
        if (inside && !input.constant) return;
        if (!Object.is(v, expected)) found.push(`input ${i} at ${at - input.before}: ${expected} became ${v}`);
      });
    }
    return found;
  }

  dispose(): void {
    for (const d of this.#disposables) d.dispose();
  }

  /**
   * A step of several sequences whose blocks are scattered over the cache. Tensors are larger than needed, like the
   * engine's.
   */
  batch(
    sequences: readonly SequenceSpec[],
    blockSize: number,
    tables: readonly (readonly number[])[],
    stateSlots: readonly number[] = [],
  ): Batch {
    const rows = sequences.reduce((n, s) => n + s.rows, 0);
    const perSequence = Math.max(1, ...tables.map((t) => t.length));
    const host = {
      tokens: new Int32Array(rows + 3),
      positions: new Int32Array(rows + 3),
      slots: new Int32Array(rows + 3),
      seqStart: new Int32Array(sequences.length + 2),
      kvLen: new Int32Array(sequences.length + 1),
      blockTable: new Int32Array((sequences.length + 1) * perSequence),
      stateSlots: Int32Array.from({ length: sequences.length + 1 }, (_, i) => stateSlots[i] ?? 0),
      logitRows: new Int32Array(rows + 1),
      baseLen: new Int32Array(sequences.length + 1),
    };
    let row = 0;
    sequences.forEach((s, i) => {
      host.seqStart[i] = row;
      host.kvLen[i] = s.past + s.rows;
      host.blockTable.set(tables[i] ?? [], i * perSequence);
      for (let j = 0; j < s.rows; j++) {
        const position = s.past + j;
        host.positions[row] = position;
        host.slots[row] = (tables[i]?.[Math.floor(position / blockSize)] ?? 0) * blockSize + (position % blockSize);
        row++;
      }
      host.seqStart[i + 1] = row;
    });
    const up = (data: Int32Array) => this.keep(this.backend.upload(data, [data.length]));
    return {
      rows,
      sequences: sequences.length,
      blocksPerSequence: perSequence,
      tokens: up(host.tokens),
      positions: up(host.positions),
      slots: up(host.slots),
      seqStart: up(host.seqStart),
      kvLen: up(host.kvLen),
      blockTable: up(host.blockTable),
      stateSlots: up(host.stateSlots),
      logitRows: up(host.logitRows),
      logitCount: 0,
      host,
    };
  }
}

/** Loads a random matrix in the wanted storage type. */
export async function loadWeight(backend: Backend, spec: WeightSpec, seed: number): Promise<Weight> {
  const [rows, width] = spec.shape;
  const values = new Random(seed).normals(rows * width, 1 / Math.sqrt(width));
  const bytes = spec.type === 'F32' ? new Uint8Array(values.buffer) : quantize(spec.type, values, width);
  return loadBytes(backend, spec, bytes);
}

export async function loadBytes(backend: Backend, spec: WeightSpec, bytes: Uint8Array): Promise<Weight> {
  const type = storageType(spec.type);
  const row = rowBytes(type, spec.shape[1]) as number;
  const raw: RawWeight = {
    name: 'test.weight',
    shape: spec.shape,
    sections: [
      {
        type,
        rows: spec.shape[0],
        readRows: async (first, count, target) => target.set(bytes.subarray(first * row, (first + count) * row)),
      },
    ],
  };
  return new Weight(raw.name, raw.shape, await backend.loadWeight(raw));
}
