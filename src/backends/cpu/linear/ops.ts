import type { LinearOptions } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import type { Weight } from '../../../core/weight.ts';
import type { OpHost } from '../host.ts';
import type { Activation } from './family.ts';
import { TILE } from './layout.ts';
import type { CpuWeight, Section } from './weight.ts';

/** Inputs of at most so many numbers are prepared by every thread for itself: cheaper than a barrier. */
const PRIVATE_COPY_NUMBERS = 8192;
/** Bytes of codes that one command reads per group of rows: they should stay in the second-level cache. */
const CODES_PER_COMMAND = 384 << 10;
const ALIGN = 128;

const align = (bytes: number) => Math.ceil(bytes / ALIGN) * ALIGN;

/** Where prepared activations lie: one record per activation of a call, reused. */
interface Prepared {
  codes: number;
  scales: number;
  sums: number;
  copyStride: number;
}

/** `linear` and `gatherRows` as commands. */
export class LinearOps {
  readonly #host: OpHost;
  readonly #prepared: Prepared[] = [];
  /** Buffer for activations; everything that reads it has run before the next call writes it. */
  #buffer = 0;
  #bufferBytes = 0;

  constructor(host: OpHost) {
    this.#host = host;
  }

  /** Bytes of the buffer for activations. */
  get bufferBytes(): number {
    return this.#bufferBytes;
  }

  linear(out: Tensor, x: Tensor, w: Weight, options: LinearOptions): void {
    const weight = w.data as CpuWeight;
    const rows = x.rowCount;
    if (!rows) return;
    const input = this.#host.address(x);
    this.#prepare(weight, input, rows);
    const bias = options.bias ? this.#host.address(options.bias) : 0;
    const y = this.#host.address(out);
    const last = weight.sections.length - 1;
    for (let i = 0; i <= last; i++) {
      const section = weight.sections[i]!;
      const a = weight.activations.indexOf(section.family.activation);
      this.#multiply(section, this.#prepared[a]!, rows, weight.columns, y, w.shape[0], bias, options, i === last);
    }
  }

  /** Rows of a matrix as floats. */
  gather(out: Tensor, w: Weight, ids: Tensor): void {
    const weight = w.data as CpuWeight;
    const count = out.rowCount;
    const y = this.#host.address(out);
    const from = this.#host.address(ids);
    const last = weight.sections.length - 1;
    for (let i = 0; i <= last; i++) {
      const section = weight.sections[i]!;
      const { at } = section.family.gather;
      const command = this.#host.begin(section.gather, i < last);
      const { words } = this.#host;
      words[command + at.w] = section.address;
      words[command + at.columns] = weight.columns;
      words[command + at.first] = section.first;
      words[command + at.rows] = section.rows;
      words[command + at.ids] = from;
      words[command + at.count] = count;
      words[command + at.y] = y;
    }
  }

  #prepare(weight: CpuWeight, input: number, rows: number): void {
    const { columns, activations } = weight;
    const { threads } = this.#host;
    const own = rows * columns <= PRIVATE_COPY_NUMBERS && threads > 1;
    let bytes = 0;
    for (let i = 0; i < activations.length; i++) {
      const a = activations[i]!;
      const p = (this.#prepared[i] ??= { codes: 0, scales: 0, sums: 0, copyStride: 0 });
      const scales = align(rows * a.codeBytes(columns));
      const sums = scales + align(rows * a.scaleBytes(columns));
      const end = sums + align(rows * a.sumBytes(columns));
      p.copyStride = own ? end : 0;
      p.codes = bytes;
      p.scales = bytes + scales;
      p.sums = bytes + sums;
      bytes += own ? end * threads : end;
    }
    const base = this.#reserve(bytes);
    const last = activations.length - 1;
    for (let i = 0; i <= last; i++) {
      const a = activations[i]!;
      const p = this.#prepared[i]!;
      if (a.direct && rows === 1) {
        p.codes = input;
        p.copyStride = 0;
        continue;
      }
      p.codes += base;
      p.scales += base;
      p.sums += base;
      this.#prepareOne(a, weight.prepare[i]!, p, input, rows, columns, own || i < last);
    }
  }

  #prepareOne(
    a: Activation,
    entry: number,
    p: Prepared,
    input: number,
    rows: number,
    columns: number,
    independent: boolean,
  ): void {
    const { at } = a.kernel;
    const command = this.#host.begin(entry, independent);
    const { words } = this.#host;
    words[command + at.x] = input;
    words[command + at.q] = p.codes;
    words[command + at.d] = p.scales;
    words[command + at.s] = p.sums;
    words[command + at.rows] = rows;
    words[command + at.columns] = columns;
    words[command + at.copyStride] = p.copyStride;
  }

  #multiply(
    section: Section,
    p: Prepared,
    rows: number,
    columns: number,
    y: number,
    outputs: number,
    bias: number,
    options: LinearOptions,
    lastSection: boolean,
  ): void {
    const { activation } = section.family;
    const rest = rows % TILE;
    const full = rows - rest;
    const perCommand = Math.max(1, Math.floor(CODES_PER_COMMAND / (TILE * activation.codeBytes(columns)))) * TILE;
    for (let first = 0; first < rows; ) {
      const tiles = first < full;
      const count = tiles ? Math.min(perCommand, full - first) : rest;
      const size = tiles ? TILE : rest;
      const { at } = section.family.tiles[size - 1]!;
      const command = this.#host.begin(section.tiles[size - 1]!, !(lastSection && first + count === rows));
      const { words } = this.#host;
      words[command + at.w] = section.address;
      words[command + at.rows] = section.rows;
      words[command + at.columns] = columns;
      words[command + at.x] = p.codes + first * activation.codeBytes(columns);
      words[command + at.d] = p.scales + first * activation.scaleBytes(columns);
      words[command + at.s] = p.sums + first * activation.sumBytes(columns);
      words[command + at.copyStride] = p.copyStride;
      words[command + at.tiles] = count / size;
      words[command + at.y] = y + (first * outputs + section.first) * 4;
      words[command + at.yStride] = outputs * 4;
      words[command + at.bias] = bias ? bias + section.first * 4 : 0;
      words[command + at.accumulate] = options.accumulate ? 1 : 0;
      first += count;
    }
  }

  /** A buffer of at least `bytes` bytes. */
  #reserve(bytes: number): number {
    if (bytes > this.#bufferBytes) {
      if (this.#bufferBytes) this.#host.release(this.#buffer);
      this.#bufferBytes = Math.max(bytes, 2 * this.#bufferBytes);
      this.#buffer = this.#host.allocate(this.#bufferBytes, 'activations');
    }
    return this.#buffer;
  }
}
