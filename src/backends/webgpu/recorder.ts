/** Collects the dispatches of a step in one command encoder and one pass, and submits them together. */
import type { Tensor } from '../../core/tensor.ts';
import type { GpuDevice } from './device.ts';
import { USAGE } from './device.ts';
import { type BoundGroup, type Kernel, MAX_NUMBERS, MAX_OPERANDS, type Variant } from './kernel.ts';
import type { Profile } from './profile.ts';
import { type GpuStorage, storageOf } from './storage.ts';

/** Numbers of all dispatches between two submits. */
const RING_BYTES = 1 << 20;
/** Bind groups kept for one place in the order of a step: the shapes of prefill and decode take turns there. */
const GROUPS = 4;
/** Dispatches over many rows after which the device gets to work while the rest is still being recorded. */
const PIECE = 48;

export interface RecorderCounters {
  submits: number;
  dispatches: number;
  readbacks: number;
  /** Bind groups made; none in a step whose shapes were seen before. */
  groups: number;
}

export class Recorder {
  readonly counters: RecorderCounters = { submits: 0, dispatches: 0, readbacks: 0, groups: 0 };
  /** Times each dispatch, in a pass of its own. */
  profile: Profile | undefined;
  readonly #gpu: GpuDevice;
  readonly #ring: GpuStorage;
  readonly #host = new ArrayBuffer(RING_BYTES);
  readonly #words = new Uint32Array(this.#host);
  readonly #floats = new Float32Array(this.#host);
  readonly #ints = new Int32Array(this.#host);
  readonly #offset = [0];
  readonly #retired: GpuStorage[] = [];
  readonly #used: Variant[] = [];
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #ringUsed = 0;
  #heavy = 0;

  // The dispatch that is being put together.
  #kernel!: Kernel;
  readonly #operands: (GpuStorage | undefined)[] = new Array<GpuStorage | undefined>(MAX_OPERANDS).fill(undefined);
  #operandCount = 0;
  #at = 0;

  constructor(gpu: GpuDevice) {
    this.#gpu = gpu;
    this.#ring = gpu.create(RING_BYTES, 'numbers', USAGE.uniform | USAGE.copyTarget);
  }

  /** Begins a dispatch: bind the operands in order, then put the numbers, then `dispatch`. */
  start(kernel: Kernel): this {
    if (this.#ringUsed + MAX_NUMBERS * 4 > RING_BYTES) this.submit();
    this.#kernel = kernel;
    this.#operandCount = 0;
    this.#at = this.#ringUsed >> 2;
    return this;
  }

  /** The next operand. Its place must be a multiple of the operand's element. */
  bind(t: Tensor): this {
    return this.bindStorage(storageOf(t), t.offset);
  }

  /** `at` counts words. */
  bindStorage(storage: GpuStorage, at = 0): this {
    const i = this.#operandCount++;
    this.#operands[i] = storage;
    this.#words[this.#at++] = at / (this.#kernel.words[i] as number);
    return this;
  }

  u(value: number): this {
    this.#words[this.#at++] = value;
    return this;
  }

  i(value: number): this {
    this.#ints[this.#at++] = value;
    return this;
  }

  f(value: number): this {
    this.#floats[this.#at++] = value;
    return this;
  }

  /** Enqueues the dispatch. */
  dispatch(x: number, y = 1, z = 1): void {
    const variant = this.#kernel.variant(this.#sharing());
    const pass = this.#begin(this.#kernel.source.label);
    this.#offset[0] = this.#ringUsed;
    pass.setPipeline(variant.pipeline);
    pass.setBindGroup(0, this.#group(variant), this.#offset);
    pass.dispatchWorkgroups(x, y, z);
    this.counters.dispatches++;
    const { uniformAlignment } = this.#gpu.facts;
    this.#ringUsed += Math.ceil(variant.numberBytes / uniformAlignment) * uniformAlignment;
  }

  /** Enqueues a dispatch for `items` lanes in groups of `size`: `(wid.y * nwg.x + wid.x) * size + li` numbers them. */
  dispatchItems(items: number, size: number): void {
    this.dispatchGroups(Math.ceil(items / size));
  }

  /** Enqueues `groups` workgroups, numbered `wid.y * nwg.x + wid.x`; there may be some more than asked for. */
  dispatchGroups(groups: number): void {
    const { maxWorkgroups } = this.#gpu.facts;
    if (groups <= maxWorkgroups) this.dispatch(groups);
    else {
      const y = Math.ceil(groups / maxWorkgroups);
      this.dispatch(Math.ceil(groups / y), y);
    }
  }

  /** Says that the last dispatch was a large one; after many of them the device is set to work. */
  heavy(): void {
    if (++this.#heavy >= PIECE) this.submit();
  }

  /** Enqueues a copy of whole words. */
  copy(from: GpuStorage, fromWord: number, to: GpuStorage, toWord: number, words: number): void {
    this.#endPass();
    this.#encoder ??= this.#gpu.device.createCommandEncoder();
    this.#encoder.copyBufferToBuffer(from.buffer, fromWord * 4, to.buffer, toWord * 4, words * 4);
  }

  /** Destroys a buffer once nothing that was recorded uses it any more. */
  retire(storage: GpuStorage): void {
    if (this.#encoder === undefined) this.#destroy(storage);
    else this.#retired.push(storage);
  }

  /** Hands everything recorded to the device. */
  submit(): void {
    const encoder = this.#encoder;
    if (encoder === undefined) return;
    this.#endPass();
    const { queue } = this.#gpu.device;
    if (this.#ringUsed > 0) queue.writeBuffer(this.#ring.buffer, 0, this.#host, 0, this.#ringUsed);
    queue.submit([encoder.finish()]);
    this.counters.submits++;
    this.#encoder = undefined;
    this.#ringUsed = this.#heavy = 0;
    for (const storage of this.#retired.splice(0)) this.#destroy(storage);
  }

  /** Submits, and begins to count a new step. */
  endStep(): void {
    this.submit();
    for (const variant of this.#used) variant.uses = 0;
    this.#used.length = 0;
  }

  #destroy(storage: GpuStorage): void {
    this.#gpu.destroy(storage);
  }

  #begin(label: string): GPUComputePassEncoder {
    this.#encoder ??= this.#gpu.device.createCommandEncoder();
    if (this.profile !== undefined) {
      this.#endPass();
      this.#pass = this.profile.pass(this.#encoder, label);
    }
    this.#pass ??= this.#encoder.beginComputePass();
    return this.#pass;
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = undefined;
  }

  /** Which operands lie in the buffer of one that is written: WebGPU binds a written buffer once. */
  #sharing(): number {
    const reads = this.#kernel.source.reads.length;
    const n = this.#operandCount;
    let shared = 0;
    let factor = 1;
    for (let i = 0; i < n; i++) {
      for (let j = reads; j < n; j++) {
        // A read one shares with any written one, a written one with those before it.
        if (j === i || (i >= reads && j >= i)) break;
        if (this.#operands[i] === this.#operands[j]) {
          shared += (j + 1) * factor;
          break;
        }
      }
      factor *= MAX_OPERANDS;
    }
    return shared;
  }

  #group(variant: Variant): GPUBindGroup {
    if (variant.uses === 0) this.#used.push(variant);
    const candidates = (variant.groups[variant.uses++] ??= []);
    for (let i = 0; i < candidates.length; i++) {
      const candidate = candidates[i] as BoundGroup;
      if (this.#fits(variant, candidate)) return candidate.group;
    }
    const storages = variant.bound.map((operand) => this.#operands[operand] as GpuStorage);
    const group = this.#gpu.device.createBindGroup({
      layout: variant.layout,
      entries: [
        { binding: 0, resource: { buffer: this.#ring.buffer, size: variant.numberBytes } },
        ...storages.map(({ buffer }, i) => ({ binding: i + 1, resource: { buffer } })),
      ],
    });
    this.counters.groups++;
    for (let i = candidates.length - 1; i >= 0; i--) {
      if ((candidates[i] as BoundGroup).storages.some((s) => s.dead)) candidates.splice(i, 1);
    }
    if (candidates.length === GROUPS) candidates.shift();
    candidates.push({ group, storages });
    return group;
  }

  #fits(variant: Variant, candidate: BoundGroup): boolean {
    const { bound } = variant;
    for (let i = 0; i < bound.length; i++) {
      if (this.#operands[bound[i] as number] !== candidate.storages[i]) return false;
    }
    return true;
  }
}
