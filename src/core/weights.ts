/** From a checkpoint to named weights: the cursor that models read through, and the load that fills what they asked for. */
import type { Backend, KvSpec, RawSection, RawWeight, StateSpec, WeightData } from './backend.ts';
import type { StorageType } from './dtype.ts';
import { rowBytes, storageType } from './dtype.ts';
import type { BetweenSteps } from './engine/types.ts';
import { AbortError, WeightError } from './errors.ts';
import type { MlpMixture, MlpMixtures } from './mixture.ts';
import type { RowTable } from './model.ts';
import { presentRows } from './presentRows.ts';
import type { Shape, Tensor } from './tensor.ts';
import { sizeOf } from './tensor.ts';
import { type ExpertStack, type RowRuns, Weight, type WeightPart } from './weight.ts';

/** One tensor of a checkpoint under its Hugging Face name, readable by rows of the last axis. */
export interface SourceTensor {
  readonly name: string;
  readonly type: StorageType;
  readonly shape: Shape;
  /** Where it lies, so that loading reads files front to back. */
  readonly order: number;
  /** The rows of another tensor that these are, for a part of it. */
  readonly part?: { readonly name: string; readonly runs: RowRuns } | undefined;
  /** Its matrices are stored with rows and columns exchanged. */
  readonly transposed?: true | undefined;
  readRows(first: number, rows: number, target: Uint8Array): Promise<void>;
}

/** A checkpoint seen through Hugging Face names; GGUF names and row orders are translated behind it. */
export interface WeightSource {
  get(name: string): SourceTensor | undefined;
  names(): Iterable<string>;
}

/** The part of the quantization formats that loading needs. */
export interface Codec {
  dequantizeInto(
    type: StorageType,
    bytes: Uint8Array,
    byteOffset: number,
    out: Float32Array,
    outOffset: number,
    elements: number,
  ): void;
}

/** Chooses other formats for matrices while they are read. */
export interface Recoder {
  /** The rows of a matrix in another format; `undefined` keeps the stored one. */
  section(part: SourceTensor): RawSection | undefined;
}

export interface LoadProgress {
  readonly done: number;
  readonly total: number;
  readonly item: string;
}

interface LoadOptions {
  readonly onProgress?: ((p: LoadProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface Job {
  readonly order: number;
  readonly bytes: number;
  readonly name: string;
  run(): Promise<void>;
}

/** A weight, and the tensors below one another that it is made of. */
export interface WeightMatrix {
  readonly weight: Weight;
  readonly order: number;
  readonly bytes: number;
  readonly parts: readonly SourceTensor[];
}

/** A matrix in other formats, ready to be loaded. */
export interface Recoded {
  readonly raw: RawWeight;
  /** Made from the values that the weight has now, since its tensors cannot be read any more. */
  readonly present: boolean;
}

/** What a build shares between all its cursors. */
interface Build {
  readonly backend: Backend;
  readonly source: WeightSource;
  readonly codec: Codec;
  readonly dtype: 'auto' | 'f32';
  readonly recoder: Recoder | undefined;
  readonly mixtures: MlpMixtures | undefined;
  readonly used: Set<string>;
  readonly weights: Map<string, Weight>;
  /** What the weights are made of, in the order of the files. */
  readonly matrices: WeightMatrix[];
  readonly tensors: Map<string, Tensor>;
  readonly jobs: Job[];
  readonly caches: KvSpec[];
  readonly states: StateSpec[];
  readonly ropes: RowTable[];
}

export interface WeightsOptions {
  readonly backend: Backend;
  readonly source: WeightSource;
  readonly codec: Codec;
  /** `f32` expands every weight, for exact arithmetic; `auto` keeps the stored formats. */
  readonly dtype?: 'auto' | 'f32';
  readonly recoder?: Recoder | undefined;
  readonly mixtures?: MlpMixtures | undefined;
}

/** `size` values of a stored vector: all of it, or `runs` of `[first, count]` of a vector of `stored` values. */
export interface VectorPart {
  readonly name: string;
  readonly size: number;
  readonly stored?: number;
  readonly runs?: readonly (readonly [first: number, count: number])[];
}

/**
 * A cursor into a checkpoint: `w.at('layers', 3).matrix('q_proj.weight')`. Asking for a tensor registers it; `load`
 * then reads all of them once, in file order. What nobody asked for is reported by `unused`.
 */
export class Weights {
  readonly #build: Build;
  readonly #prefix: string;

  private constructor(build: Build, prefix: string) {
    this.#build = build;
    this.#prefix = prefix;
  }

  static open(options: WeightsOptions): Weights {
    const { backend, source, codec, dtype = 'auto', recoder, mixtures } = options;
    const build: Build = {
      backend,
      source,
      codec,
      dtype,
      recoder,
      mixtures,
      used: new Set(),
      weights: new Map(),
      matrices: [],
      tensors: new Map(),
      jobs: [],
      caches: [],
      states: [],
      ropes: [],
    };
    return new Weights(build, '');
  }

  at(...path: readonly (string | number)[]): Weights {
    return new Weights(this.#build, `${this.#prefix}${path.join('.')}.`);
  }

  /** Where the cursor stands, with a final dot; empty at the root. */
  get path(): string {
    return this.#prefix;
  }

  /** What takes the place of the MLP that lies here, if anything does. */
  get mixture(): MlpMixture | undefined {
    return this.#build.mixtures?.at(this.#prefix);
  }

  /** MLPs that are one of several. */
  get mixtures(): MlpMixtures | undefined {
    return this.#build.mixtures;
  }

  get backend(): Backend {
    return this.#build.backend;
  }

  has(name: string): boolean {
    return this.#build.source.get(this.#prefix + name) !== undefined;
  }

  /** Shape of a tensor, without asking for it. */
  shapeOf(name: string): Shape {
    return this.#find(name).shape;
  }

  /** A small tensor (norm weight, bias), as f32. `transform` changes the values in place while loading. */
  tensor(name: string, shape?: Shape, transform?: (values: Float32Array) => void): Tensor {
    const source = this.#find(name);
    const seen = this.#build.tensors.get(source.name);
    if (seen) return seen;
    checkType(source);
    if (shape && sizeOf(shape) !== sizeOf(source.shape)) throw wrongShape(source, shape);
    const tensor = this.backend.persistent(shape ?? source.shape, 'f32');
    this.#build.tensors.set(source.name, tensor);
    this.#job(source, async () => {
      const values = await readValues(source, this.#build.codec);
      transform?.(values);
      this.backend.write(tensor, values);
    });
    return tensor;
  }

  /** The tensor if the checkpoint has it. */
  optional(name: string, shape?: Shape): Tensor | undefined {
    return this.has(name) ? this.tensor(name, shape) : undefined;
  }

  /** Vectors one behind the other, as f32. Without `required`, a part that the checkpoint lacks is zeros. */
  vector(parts: readonly VectorPart[], required = true): Tensor {
    const found = parts.map((p) => (required || this.has(p.name) ? this.#find(p.name) : undefined));
    const sources = found.filter((t) => t !== undefined);
    const key = parts.map((p) => this.#prefix + p.name + (p.runs ? `[${p.runs}]` : '')).join('+');
    const seen = this.#build.tensors.get(key);
    if (seen) return seen;
    found.forEach((t, i) => {
      const { size, stored = size } = parts[i] as VectorPart;
      if (t) checkType(t);
      if (t && sizeOf(t.shape) !== stored) throw wrongShape(t, [stored]);
    });
    const total = parts.reduce((n, p) => n + p.size, 0);
    const tensor = this.backend.persistent([total], 'f32');
    this.#build.tensors.set(key, tensor);
    const bytes = sources.reduce((n, t) => n + bytesOf(t), 0);
    this.#job({ name: key, order: Math.min(...sources.map((t) => t.order)), bytes }, async () => {
      const values = new Float32Array(total);
      let at = 0;
      for (const [i, part] of parts.entries()) {
        const source = found[i];
        if (source) {
          const read = await readValues(source, this.#build.codec);
          let to = at;
          for (const [first, count] of part.runs ?? [[0, part.size]]) {
            values.set(read.subarray(first, first + count), to);
            to += count;
          }
        }
        at += part.size;
      }
      this.backend.write(tensor, values);
    });
    return tensor;
  }

  /** Vectors of this checkpoint or another, one behind the other, as f32 of the given shape. */
  table(key: string, parts: readonly SourceTensor[], shape: Shape): Tensor {
    const seen = this.#build.tensors.get(key);
    if (seen) return seen;
    for (const t of parts) checkType(t);
    const total = parts.reduce((n, t) => n + sizeOf(t.shape), 0);
    if (total !== sizeOf(shape)) {
      throw new WeightError(`tensors "${key}": expected ${sizeOf(shape)} values, got ${total}`);
    }
    const tensor = this.backend.persistent(shape, 'f32');
    this.#build.tensors.set(key, tensor);
    const order = Math.min(...parts.map((t) => t.order));
    this.#job({ name: key, order, bytes: parts.reduce((n, t) => n + bytesOf(t), 0) }, async () => {
      const values = new Float32Array(total);
      let at = 0;
      for (const t of parts) {
        values.set(await readValues(t, this.#build.codec), at);
        at += sizeOf(t.shape);
      }
      this.backend.write(tensor, values);
    });
    return tensor;
  }

  /** A matrix in its stored format. Every axis but the last counts as rows. */
  matrix(name: string, shape?: readonly [number, number]): Weight {
    return this.stack([name], shape);
  }

  /** Matrices of one row length, below one another: one product instead of several. */
  stack(names: readonly string[], shape?: readonly [number, number]): Weight {
    const parts = names.map((n) => this.#find(n));
    return this.matrixOf(parts, shape);
  }

  /**
   * Like `stack`, for tensors that were reshaped, cut or reordered first. `name` stands for the joined names of many that
   * are no longer the stored matrices; `experts` says so of those of routed experts.
   */
  matrixOf(
    parts: readonly SourceTensor[],
    shape?: readonly [number, number],
    name?: string,
    experts?: ExpertStack,
  ): Weight {
    const first = parts[0] as SourceTensor;
    const key = name ?? parts.map((p) => p.name).join('+');
    const seen = this.#build.weights.get(key);
    if (seen) return seen;
    const width = first.shape[first.shape.length - 1] as number;
    let out = 0;
    for (const p of parts) {
      if (p.shape[p.shape.length - 1] !== width) throw wrongShape(p, [sizeOf(p.shape) / width, width]);
      out += sizeOf(p.shape) / width;
    }
    if (shape && (shape[0] !== out || shape[1] !== width)) {
      throw new WeightError(
        `tensor "${key}": expected shape [${shape}], got [${out},${width}]; check the configuration`,
      );
    }
    const origin = { parts: name === undefined ? parts.map(partOf) : [], experts };
    const weight = new Weight(key, [out, width], undefined, origin);
    this.#build.weights.set(key, weight);
    const sections = parts.map((p) => this.#section(p, this.#build.recoder));
    const order = Math.min(...parts.map((p) => p.order));
    const bytes = parts.reduce((n, p) => n + bytesOf(p), 0);
    this.#build.matrices.push({ weight, order, bytes, parts });
    this.#job({ name: key, order, bytes }, async () =>
      weight.replace(await this.backend.loadWeight({ name: key, shape: [out, width], sections })),
    );
    return weight;
  }

  /** The source of a tensor, marked as used: for `matrixOf`. */
  source(name: string): SourceTensor {
    return this.#find(name);
  }

  /** A persistent tensor of whole numbers that the model itself makes; equal keys share it. */
  constant(key: string, values: Int32Array, shape: Shape): Tensor {
    const seen = this.#build.tensors.get(key);
    if (seen) return seen;
    const tensor = this.backend.upload(values, shape, 'i32');
    this.#build.tensors.set(key, tensor);
    return tensor;
  }

  /** The tensor with its values as F32. */
  expanded(t: SourceTensor): SourceTensor {
    return expandedTensor(t, this.#build.codec);
  }

  /** Reserves a key/value cache for one layer; the number finds it in `Step.caches`. */
  declareCache(spec: KvSpec): number {
    return this.#build.caches.push(spec) - 1;
  }

  /** Reserves what one recurrent layer keeps of every sequence; the number finds it in `Step.states`. */
  declareState(spec: StateSpec): number {
    return this.#build.states.push(spec) - 1;
  }

  /** Registers a rotary embedding or another table by position; equal ones share their number, the index in `Step.cosSin`. */
  declareRope(rope: RowTable): number {
    const at = this.#build.ropes.findIndex((r) => r.key === rope.key);
    return at >= 0 ? at : this.#build.ropes.push(rope) - 1;
  }

  get caches(): readonly KvSpec[] {
    return this.#build.caches;
  }

  get states(): readonly StateSpec[] {
    return this.#build.states;
  }

  get ropes(): readonly RowTable[] {
    return this.#build.ropes;
  }

  /** All weight handles by name. */
  get weights(): ReadonlyMap<string, Weight> {
    return this.#build.weights;
  }

  /** Tensors nobody asked for. */
  unused(): string[] {
    return [...this.#build.source.names()].filter((n) => !this.#build.used.has(n));
  }

  /** Marks tensors that are known and not needed (a stored rotary table, say). */
  ignore(pattern: RegExp): void {
    for (const n of this.#build.source.names()) if (pattern.test(n)) this.#build.used.add(n);
  }

  /** Reads everything asked for, once, front to back. On failure all memory taken is returned. */
  async load(options: LoadOptions = {}): Promise<void> {
    const jobs = this.#build.jobs.sort((a, b) => a.order - b.order);
    const total = jobs.reduce((n, j) => n + j.bytes, 0);
    let done = 0;
    try {
      for (const job of jobs) {
        checkSignal(options.signal);
        await job.run();
        done += job.bytes;
        options.onProgress?.({ done, total, item: job.name });
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
    jobs.length = 0;
  }

  /** What the weights are made of. */
  get matrices(): readonly WeightMatrix[] {
    return this.#build.matrices;
  }

  /**
   * Reads all matrices again in the formats of another recoder, and exchanges them when all are there. On failure everything
   * is as before. Returns how many were made from their present values, since the checkpoint is gone.
   */
  async recode(recoder: Recoder, options: LoadOptions = {}): Promise<number> {
    const matrices = [...this.#build.matrices].sort((a, b) => a.order - b.order);
    const total = matrices.reduce((n, m) => n + m.bytes, 0);
    const loaded: [Weight, WeightData][] = [];
    let done = 0;
    let present = 0;
    try {
      for (const matrix of matrices) {
        checkSignal(options.signal);
        const { weight, bytes } = matrix;
        const next = await this.recoded(matrix, recoder);
        if (next) loaded.push([weight, await this.backend.loadWeight(next.raw)]);
        if (next?.present) present++;
        done += bytes;
        options.onProgress?.({ done, total, item: weight.name });
      }
      // Commands that repack rows have run, or failed, by then.
      await this.backend.flush();
    } catch (error) {
      for (const [, data] of loaded) data.dispose();
      throw error;
    }
    for (const [weight, data] of loaded) weight.replace(data);
    return present;
  }

  /**
   * A matrix in the formats of a recoder: from the checkpoint, or where that can no longer be read from its present values,
   * which are taken in `between`. `undefined`: it stays as it is. Rows are read when the result is loaded.
   */
  async recoded(matrix: WeightMatrix, recoder: Recoder, between: BetweenSteps = direct): Promise<Recoded | undefined> {
    const { weight, parts } = matrix;
    const present = !(await canRead(parts));
    const from = present ? presentParts(this.backend, matrix, between) : parts;
    const chosen = from.map((part) => recoder.section(part));
    if (present && chosen.every((section) => section === undefined)) return undefined;
    const sections = from.map((part, i) => chosen[i] ?? this.#plain(part));
    return { raw: { name: weight.name, shape: weight.shape, sections }, present };
  }

  /** Returns all weights and tensors. */
  dispose(): void {
    for (const w of this.#build.weights.values()) w.dispose();
    for (const t of this.#build.tensors.values()) t.dispose();
    this.#build.weights.clear();
    this.#build.tensors.clear();
  }

  #find(name: string): SourceTensor {
    const full = this.#prefix + name;
    const found = this.#build.source.get(full);
    if (!found) throw missing(full, this.#build.source);
    this.#build.used.add(full);
    return found;
  }

  #job(at: { name: string; order: number; bytes?: number } & Partial<SourceTensor>, run: () => Promise<void>): void {
    const bytes = at.bytes ?? bytesOf(at as SourceTensor);
    this.#build.jobs.push({ name: at.name, order: at.order, bytes, run });
  }

  #section(part: SourceTensor, recoder: Recoder | undefined): RawSection {
    checkType(part);
    return recoder?.section(part) ?? this.#plain(part);
  }

  #plain(part: SourceTensor): RawSection {
    const width = part.shape[part.shape.length - 1] as number;
    const rows = sizeOf(part.shape) / width;
    if (this.#build.dtype === 'auto' || part.type.name === 'F32') {
      return { type: part.type, rows, readRows: (first, n, target) => part.readRows(first, n, target) };
    }
    return { type: storageType('F32'), rows, readRows: expandRows(part, this.#build.codec) };
  }
}

function direct<T>(task: () => Promise<T>): Promise<T> {
  return task();
}

/** Whether the first and the last rows of tensors are still there. */
async function canRead(parts: readonly SourceTensor[]): Promise<boolean> {
  try {
    for (const t of parts) {
      const row = new Uint8Array(storedRowBytes(t));
      const rows = sizeOf(t.shape) / (t.shape[t.shape.length - 1] as number);
      await t.readRows(0, 1, row);
      await t.readRows(rows - 1, 1, row);
    }
    return true;
  } catch {
    return false;
  }
}

/** The parts of a matrix as floats, from what the weight holds now. */
function presentParts(backend: Backend, { weight, parts }: WeightMatrix, between: BetweenSteps): SourceTensor[] {
  let start = 0;
  return parts.map((part) => {
    const first = start;
    start += sizeOf(part.shape) / weight.shape[1];
    return {
      ...part,
      type: storageType('F32'),
      readRows: (at, n, target) => presentRows(backend, weight, first + at, n, target, between),
    };
  });
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new AbortError('loading was cancelled', { cause: signal.reason });
}

function partOf(t: SourceTensor): WeightPart {
  return t.part ?? { name: t.name, runs: [[0, sizeOf(t.shape) / (t.shape[t.shape.length - 1] ?? 1)]] };
}

/** The tensor with its values as F32. */
export function expandedTensor(t: SourceTensor, codec: Codec): SourceTensor {
  checkType(t);
  return { ...t, type: storageType('F32'), readRows: expandRows(t, codec) };
}

/** Reads rows as F32. */
export function expandRows(t: SourceTensor, codec: Codec): SourceTensor['readRows'] {
  const width = t.shape[t.shape.length - 1] as number;
  const stored = storedRowBytes(t);
  return async (first, n, target) => {
    const bytes = new Uint8Array(n * stored);
    await t.readRows(first, n, bytes);
    const values = new Float32Array(n * width);
    codec.dequantizeInto(t.type, bytes, 0, values, 0, n * width);
    target.set(new Uint8Array(values.buffer));
  };
}

/** Bytes of one row (last axis) as stored. */
export function storedRowBytes(t: SourceTensor): number {
  const width = t.shape[t.shape.length - 1] ?? 1;
  const bytes = rowBytes(t.type, width);
  if (bytes === undefined) {
    throw new WeightError(
      `tensor "${t.name}": expected rows in whole blocks of ${t.type.blockSize} (${t.type.name}), got rows of ${width}`,
    );
  }
  return bytes;
}

function bytesOf(t: SourceTensor): number {
  return (sizeOf(t.shape) / (t.shape[t.shape.length - 1] ?? 1)) * storedRowBytes(t);
}

/** All values of a tensor as f32. */
export async function readValues(t: SourceTensor, codec: Codec): Promise<Float32Array> {
  const width = t.shape[t.shape.length - 1] ?? 1;
  const rows = sizeOf(t.shape) / width;
  const bytes = new Uint8Array(rows * storedRowBytes(t));
  await t.readRows(0, rows, bytes);
  const values = new Float32Array(rows * width);
  codec.dequantizeInto(t.type, bytes, 0, values, 0, values.length);
  return values;
}

/** Types that no weight of a network has. Formats made of them are unpacked before they get here. */
const INTEGERS: ReadonlySet<string> = new Set(['I8', 'I16', 'I32', 'I64', 'U8', 'U16', 'U32', 'U64', 'BOOL', 'C64']);

function checkType(t: SourceTensor): void {
  if (!INTEGERS.has(t.type.name)) return;
  throw new WeightError(
    `tensor "${t.name}": expected floating-point or quantized numbers, got ${t.type.name}; the file is of another model or damaged`,
  );
}

function wrongShape(t: SourceTensor, expected: Shape): WeightError {
  return new WeightError(
    `tensor "${t.name}": expected shape [${expected}], got [${t.shape}]; the configuration and the weights disagree`,
  );
}

function missing(name: string, source: WeightSource): WeightError {
  const parts = name.split('.');
  const last = parts.at(-2) ?? name;
  const near = [...source.names()].filter((n) => n.includes(last)).slice(0, 3);
  const hint = near.length ? `nearest: ${near.join(', ')}` : 'the checkpoint has no similar name';
  return new WeightError(`checkpoint has no tensor "${name}"; ${hint}`);
}
