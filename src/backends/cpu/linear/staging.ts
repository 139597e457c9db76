import type { OpHost } from '../host.ts';
import { TRANSFER } from '../interpreter.ts';
import { TRANSFER_AT } from '../transfer.ts';
import type { ExpertCall, Prepared, Result } from './ops.ts';
import type { Section } from './weight.ts';

const ALIGN = 128;
const align = (bytes: number) => Math.ceil(bytes / ALIGN) * ALIGN;

interface Area {
  address: number;
  bytes: number;
}

/**
 * For matrices in a further memory: their kernels see only that memory, so activations are copied there and results back.
 * Models that need it take a hundred times longer for a product than for these copies.
 */
export class Staging {
  /** What the kernels of the section entered last are given. */
  readonly prepared: Prepared = { codes: 0, scales: 0, sums: 0, copyStride: 0, bytes: 0 };
  readonly result: Result = { y: 0, stride: 0, bias: 0, accumulate: 0 };
  readonly #gather = { ids: 0, y: 0 };
  readonly #host: OpHost;
  /** By memory. Everything in it has been used before the next section enters. */
  readonly #areas: Area[] = [];

  constructor(host: OpHost) {
    this.#host = host;
  }

  get bytes(): number {
    return this.#areas.reduce((n, area) => n + (area?.bytes ?? 0), 0);
  }

  /** Brings the inputs of a product over. */
  enter(section: Section, p: Prepared, to: Result, rows: number): void {
    const { memory } = section;
    const width = section.rows * 4;
    const yAt = align(p.bytes);
    const biasAt = yAt + align(rows * width);
    const base = this.#reserve(memory, biasAt + align(width));
    this.#copy(memory, base, 0, 0, p.codes, 0, p.bytes, 1, true);
    if (to.bias) this.#copy(memory, base + biasAt, 0, 0, to.bias, 0, width, 1, true);
    // The last copy has the barrier behind it; it is the results so far, or nothing.
    this.#copy(memory, base + yAt, width, 0, to.y, to.stride, width, to.accumulate ? rows : 0, false);
    this.prepared.codes = base;
    this.prepared.scales = base + p.scales - p.codes;
    this.prepared.sums = base + p.sums - p.codes;
    this.result.y = base + yAt;
    this.result.stride = width;
    this.result.bias = to.bias ? base + biasAt : 0;
    this.result.accumulate = to.accumulate;
  }

  /** Takes the results back. */
  leave(section: Section, to: Result, rows: number): void {
    this.#copy(0, to.y, to.stride, section.memory, this.result.y, this.result.stride, this.result.stride, rows, false);
  }

  /** Brings row numbers over, and the rows of other sections, so that all can be taken back. */
  enterGather(
    section: Section,
    ids: number,
    y: number,
    count: number,
    columns: number,
  ): { readonly ids: number; readonly y: number } {
    const base = this.#reserve(section.memory, align(count * 4) + align(count * columns * 4));
    this.#gather.ids = base;
    this.#gather.y = base + align(count * 4);
    this.#copy(section.memory, base, 0, 0, ids, 0, count * 4, 1, true);
    this.#copy(section.memory, this.#gather.y, columns * 4, 0, y, columns * 4, columns * 4, count, false);
    return this.#gather;
  }

  leaveGather(section: Section, y: number, count: number, columns: number): void {
    const width = columns * 4;
    this.#copy(0, y, width, section.memory, this.#gather.y, width, width, count, false);
  }

  /** Brings the operands of a product with experts over, the results of other sections among them. */
  enterExperts(
    section: Section,
    call: ExpertCall,
    xBytes: number,
    yBytes: number,
    idBytes: number,
    scratchBytes: number,
  ): void {
    const { memory } = section;
    const sizes = [xBytes, yBytes, idBytes].map(align) as [number, number, number];
    const base = this.#reserve(memory, sizes[0] + sizes[1] + sizes[2] + scratchBytes);
    const [x, y, experts] = [base, base + sizes[0], base + sizes[0] + sizes[1]];
    this.#copy(memory, x, 0, 0, call.x, 0, xBytes, 1, true);
    this.#copy(memory, y, 0, 0, call.y, 0, yBytes, 1, true);
    this.#copy(memory, experts, 0, 0, call.experts, 0, idBytes, 1, false);
    call.x = x;
    call.y = y;
    call.experts = experts;
    call.scratch = experts + sizes[2];
  }

  leaveExperts(section: Section, y: number, staged: number, bytes: number): void {
    this.#copy(0, y, 0, section.memory, staged, 0, bytes, 1, false);
  }

  #copy(
    toMemory: number,
    target: number,
    targetStride: number,
    fromMemory: number,
    source: number,
    sourceStride: number,
    rowBytes: number,
    rows: number,
    independent: boolean,
  ): void {
    const at = this.#host.begin(TRANSFER, independent);
    const { words } = this.#host;
    words[at + TRANSFER_AT.toMemory] = toMemory;
    words[at + TRANSFER_AT.target] = target;
    words[at + TRANSFER_AT.targetStride] = targetStride;
    words[at + TRANSFER_AT.fromMemory] = fromMemory;
    words[at + TRANSFER_AT.source] = source;
    words[at + TRANSFER_AT.sourceStride] = sourceStride;
    words[at + TRANSFER_AT.rowBytes] = rowBytes;
    words[at + TRANSFER_AT.rows] = rows;
  }

  #reserve(memory: number, bytes: number): number {
    const area = (this.#areas[memory] ??= { address: 0, bytes: 0 });
    if (bytes > area.bytes) {
      if (area.bytes) this.#host.release(area.address, memory);
      area.bytes = Math.max(bytes, 2 * area.bytes);
      area.address = this.#host.allocate(area.bytes, 'activations', memory);
    }
    return area.address;
  }
}
