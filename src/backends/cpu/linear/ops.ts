import type { LinearOptions } from '../../../core/backend.ts';
import { composedLinearExperts } from '../../../core/composed/experts.ts';
import type { Tensor } from '../../../core/tensor.ts';
import type { Weight } from '../../../core/weight.ts';
import type { OpHost } from '../host.ts';
import { COMMAND_COUNTER } from '../kernel.ts';
import { expertScratchBytes, expertsKernel } from './experts.ts';
import { GROUP, groupsOf, TILE } from './layout.ts';
import { Staging } from './staging.ts';
import type { CpuWeight, Section } from './weight.ts';

/** Inputs of at most so many numbers are prepared by every thread for itself: cheaper than a barrier. */
const PRIVATE_COPY_NUMBERS = 8192;
/** Bytes of codes that one command reads per group of rows: they should stay in the second-level cache. */
const CODES_PER_COMMAND = 384 << 10;
/** Parts of a matrix that a thread takes at a time: small ones even out, large ones are read in one run. */
const CHUNKS_PER_THREAD = 4;
const ALIGN = 128;

const align = (bytes: number) => Math.ceil(bytes / ALIGN) * ALIGN;

/** Where the activations of a call lie: one record for each kind, reused. */
export interface Prepared {
  codes: number;
  scales: number;
  sums: number;
  copyStride: number;
  /** From `codes` to the end of the sums. */
  bytes: number;
}

/** Where results go. One record, reused. */
export interface Result {
  y: number;
  /** Bytes between rows. */
  stride: number;
  bias: number;
  accumulate: number;
}

/** Where the operands of a product with experts lie. One record, reused. */
export interface ExpertCall {
  x: number;
  y: number;
  experts: number;
  scratch: number;
}

/** `linear`, `linearExperts` and `gatherRows` of weights as commands. */
export class LinearOps {
  readonly #host: OpHost;
  readonly #staging: Staging;
  readonly #prepared: Prepared[] = [];
  readonly #result: Result = { y: 0, stride: 0, bias: 0, accumulate: 0 };
  readonly #call: ExpertCall = { x: 0, y: 0, experts: 0, scratch: 0 };
  /** Buffer for activations; everything that reads it has run before the next call writes it. */
  #buffer = 0;
  #bufferBytes = 0;

  constructor(host: OpHost) {
    this.#host = host;
    this.#staging = new Staging(host);
  }

  /** Bytes of all buffers. */
  get bufferBytes(): number {
    return this.#bufferBytes + this.#staging.bytes;
  }

  linear(out: Tensor, x: Tensor, w: Weight, options: LinearOptions): void {
    const weight = w.data as CpuWeight;
    const rows = x.rowCount;
    if (!rows) return;
    this.#prepare(weight, this.#host.address(x), rows);
    const bias = options.bias ? this.#host.address(options.bias) : 0;
    const y = this.#host.address(out);
    const result = this.#result;
    const last = weight.sections.length - 1;
    for (let i = 0; i <= last; i++) {
      const section = weight.sections[i]!;
      const prepared = this.#prepared[weight.activations.indexOf(section.family.activation)]!;
      result.y = y + section.first * 4;
      result.stride = w.shape[0] * 4;
      result.bias = bias ? bias + section.first * 4 : 0;
      result.accumulate = options.accumulate ? 1 : 0;
      if (section.memory) {
        this.#staging.enter(section, prepared, result, rows);
        this.#multiply(section, this.#staging.prepared, this.#staging.result, rows, weight.columns, true);
        this.#staging.leave(section, result, rows);
      } else {
        this.#multiply(section, prepared, result, rows, weight.columns, i === last);
      }
    }
  }

  /** Rows of a matrix as floats. */
  gather(out: Tensor, w: Weight, ids: Tensor): void {
    const weight = w.data as CpuWeight;
    const count = out.rowCount;
    const target = this.#host.address(out);
    const from = this.#host.address(ids);
    for (const section of weight.sections) {
      const { at } = section.family.gather;
      const { memory } = section;
      const staged = memory ? this.#staging.enterGather(section, from, target, count, weight.columns) : undefined;
      const command = this.#host.begin(section.gather);
      const words = this.#host.wordsOf(memory);
      words[command + at.w] = section.address;
      words[command + at.columns] = weight.columns;
      words[command + at.first] = section.first;
      words[command + at.rows] = section.rows;
      words[command + at.ids] = staged?.ids ?? from;
      words[command + at.count] = count;
      words[command + at.y] = staged?.y ?? target;
      if (staged) this.#staging.leaveGather(section, target, count, weight.columns);
    }
  }

  /** `out[p] = x[…] W[experts[p]]ᵀ` for each pair `p` of a row and one of its choices. */
  experts(out: Tensor, x: Tensor, w: Weight, experts: Tensor, expertCount: number): void {
    const weight = w.data as CpuWeight;
    const features = w.shape[0] / expertCount;
    if (features % GROUP || weight.sections.some((s) => s.first % GROUP)) {
      composedLinearExperts(out, x, w, experts, expertCount);
      return;
    }
    const pairs = experts.size;
    const { threads } = this.#host;
    const { columns } = weight;
    const call = this.#call;
    for (const section of weight.sections) {
      const { family, memory } = section;
      const { activation } = family;
      const sizes = {
        ...{ expertCount, pairs, columns, features, codeBytes: activation.codeBytes(columns) },
        ...{ scaleBytes: activation.scaleBytes(columns), sumBytes: activation.sumBytes(columns) },
      };
      const stride = expertScratchBytes(sizes);
      call.x = this.#host.address(x);
      call.y = this.#host.address(out);
      call.experts = this.#host.address(experts);
      if (memory) this.#staging.enterExperts(section, call, x.size * 4, out.size * 4, pairs * 4, stride * threads);
      else call.scratch = this.#reserve(stride * threads);
      this.#host.require(section.prepare);
      for (const tile of section.tiles) this.#host.require(tile);
      const { at } = expertsKernel;
      const command = this.#host.begin(section.experts);
      const words = this.#host.wordsOf(memory);
      words[command + at.w] = section.address;
      words[command + at.first] = section.first;
      words[command + at.rows] = section.rows;
      words[command + at.groupBytes] = family.groupBytes(columns);
      words[command + at.columns] = columns;
      words[command + at.features] = features;
      words[command + at.expertCount] = expertCount;
      words[command + at.experts] = call.experts;
      words[command + at.pairs] = pairs;
      words[command + at.x] = call.x;
      words[command + at.pairsPerRow] = pairs / x.rowCount;
      words[command + at.y] = call.y;
      words[command + at.scratch] = call.scratch;
      words[command + at.scratchStride] = stride;
      words[command + at.prepare] = section.prepare;
      words[command + at.tile1] = section.tiles[0]!;
      words[command + at.tile2] = section.tiles[1]!;
      words[command + at.tile3] = section.tiles[2]!;
      words[command + at.tile4] = section.tiles[3]!;
      words[command + at.direct] = activation.direct ? 1 : 0;
      words[command + at.codeBytes] = sizes.codeBytes;
      words[command + at.scaleBytes] = sizes.scaleBytes;
      words[command + at.sumBytes] = sizes.sumBytes;
      if (memory) this.#staging.leaveExperts(section, this.#host.address(out), call.y, out.size * 4);
    }
  }

  #prepare(weight: CpuWeight, input: number, rows: number): void {
    const { columns, activations } = weight;
    const { threads } = this.#host;
    const own = threads > 1 && rows * columns <= PRIVATE_COPY_NUMBERS && !weight.elsewhere;
    let bytes = 0;
    for (let i = 0; i < activations.length; i++) {
      const a = activations[i]!;
      const p = (this.#prepared[i] ??= { codes: 0, scales: 0, sums: 0, copyStride: 0, bytes: 0 });
      const scales = align(rows * a.codeBytes(columns));
      const sums = scales + align(rows * a.scaleBytes(columns));
      p.bytes = sums + align(rows * a.sumBytes(columns));
      p.copyStride = own ? p.bytes : 0;
      p.codes = bytes;
      p.scales = bytes + scales;
      p.sums = bytes + sums;
      bytes += own ? p.bytes * threads : p.bytes;
    }
    const base = this.#reserve(bytes);
    const last = activations.length - 1;
    for (let i = 0; i <= last; i++) {
      const a = activations[i]!;
      const p = this.#prepared[i]!;
      if (a.direct && rows === 1) {
        p.codes = p.scales = p.sums = input;
        p.copyStride = 0;
        p.bytes = a.codeBytes(columns);
        continue;
      }
      p.codes += base;
      p.scales += base;
      p.sums += base;
      const { at } = a.kernel;
      const command = this.#host.begin(weight.prepare[i]!, own || i < last);
      const { words } = this.#host;
      words[command + at.x] = input;
      words[command + at.q] = p.codes;
      words[command + at.d] = p.scales;
      words[command + at.s] = p.sums;
      words[command + at.rows] = rows;
      words[command + at.columns] = columns;
      words[command + at.copyStride] = p.copyStride;
    }
  }

  /** The product of one section; only with `last` there is a barrier behind it. */
  #multiply(section: Section, p: Prepared, to: Result, rows: number, columns: number, last: boolean): void {
    const { activation, tiles } = section.family;
    const { threads } = this.#host;
    const chunk = threads > 1 ? Math.ceil(groupsOf(section.rows) / (threads * CHUNKS_PER_THREAD)) : 0;
    const rest = rows % TILE;
    const full = rows - rest;
    const perCommand = Math.max(1, Math.floor(CODES_PER_COMMAND / (TILE * activation.codeBytes(columns)))) * TILE;
    for (let first = 0; first < rows; ) {
      const whole = first < full;
      const count = whole ? Math.min(perCommand, full - first) : rest;
      const size = whole ? TILE : rest;
      const { at } = tiles[size - 1]!;
      const command = this.#host.begin(section.tiles[size - 1]!, !(last && first + count === rows));
      const words = section.memory ? this.#host.wordsOf(section.memory) : this.#host.words;
      words[command + at.w] = section.address;
      words[command + at.rows] = section.rows;
      words[command + at.columns] = columns;
      words[command + at.x] = p.codes + first * activation.codeBytes(columns);
      words[command + at.d] = p.scales + first * activation.scaleBytes(columns);
      words[command + at.s] = p.sums + first * activation.sumBytes(columns);
      words[command + at.copyStride] = p.copyStride;
      words[command + at.tiles] = count / size;
      words[command + at.y] = to.y + first * to.stride;
      words[command + at.yStride] = to.stride;
      words[command + at.bias] = to.bias;
      words[command + at.accumulate] = to.accumulate;
      words[command + at.chunk] = chunk;
      words[command + at.counter] = (command + COMMAND_COUNTER) * 4;
      words[command + COMMAND_COUNTER] = 0;
      first += count;
    }
  }

  /** A buffer of at least `bytes` bytes. */
  #reserve(bytes: number): number {
    if (bytes > this.#bufferBytes) {
      if (this.#bufferBytes) this.#host.release(this.#buffer);
      this.#bufferBytes = align(Math.max(bytes, 2 * this.#bufferBytes));
      this.#buffer = this.#host.allocate(this.#bufferBytes, 'activations');
    }
    return this.#buffer;
  }
}
