import type { RawSection, RawWeight, WeightData } from '../../../core/backend.ts';
import { rowBytes } from '../../../core/dtype.ts';
import { WeightError } from '../../../core/errors.ts';
import { expanded, floatsFor } from '../../expanded.ts';
import { checkedHalves } from '../../finite.ts';
import { GROUPED_BLOCKS } from '../../groupedBlocks.ts';
import { arrange } from '../../sections.ts';
import type { OpHost } from '../host.ts';
import type { Format } from './format.ts';
import { FORMATS } from './formats.ts';
import { groupedFormat } from './grouped.ts';
import { type FormatKernels, formatKernels } from './kernels.ts';
import { RowTarget, SLAB, UNIT } from './repack.ts';
import { GpuWeight, type Piece } from './weight.ts';

/** Bytes read at a time, at least one slab of rows. */
const CHUNK_BYTES = 2 << 20;
/** Bytes written before the device is waited for: what is queued stands in host memory. */
const QUEUED_BYTES = 64 << 20;

/** Reads matrices from checkpoints, rows by rows, and repacks them for the kernels. */
export class WeightLoader {
  readonly #host: OpHost;
  readonly #kernels = new Map<string, FormatKernels>();
  /** Loads take turns, so that the host holds one chunk at a time. */
  #last: Promise<unknown> = Promise.resolve();
  #queued = 0;

  constructor(host: OpHost) {
    this.#host = host;
  }

  load(raw: RawWeight): Promise<WeightData> {
    const loaded = this.#last.then(() => this.#load(raw));
    this.#last = loaded.catch(() => {});
    return loaded;
  }

  async #load(raw: RawWeight): Promise<GpuWeight> {
    const [rows, columns] = raw.shape;
    const given = raw.sections.reduce((n, s) => n + s.rows, 0);
    if (given !== rows) throw new WeightError(`weight "${raw.name}": expected ${rows} rows, got ${given}`);
    const units = Math.ceil(columns / UNIT);
    const pieces: Piece[] = [];
    try {
      let first = 0;
      for (const section of arrange(raw.sections, columns, Number.MAX_SAFE_INTEGER, SLAB)) {
        const stored = rowBytes(section.type, columns);
        if (stored === undefined) {
          const { blockSize, name } = section.type;
          throw new WeightError(
            `weight "${raw.name}": expected rows of whole ${name} blocks (${blockSize}), got ${columns} columns`,
          );
        }
        const checked = checkedHalves(section, raw.name, first, columns);
        const source = kept(checked, columns);
        const { grouping, name } = source.type;
        const format = grouping ? groupedFormat(grouping, columns) : (FORMATS.get(name) as Format);
        for (const part of arrange([source], columns, this.#mostRows(format, units), 1)) {
          pieces.push(await this.#piece(raw.name, part, format, first, columns, units));
          first += part.rows;
        }
      }
    } catch (error) {
      for (const { storage } of pieces) this.#host.release(storage);
      throw error;
    }
    return new GpuWeight(columns, units, pieces, (storage) => this.#host.release(storage));
  }

  /** Rows that one binding and one dispatch can take. */
  #mostRows(format: Format, units: number): number {
    const { maxBinding, maxBuffer, maxWorkgroups } = this.#host.gpu.facts;
    const slabs = Math.floor((Math.min(maxBinding, maxBuffer) - bookBytes(format)) / slabBytes(format, units));
    return SLAB * Math.max(1, Math.min(slabs, maxWorkgroups));
  }

  async #piece(
    name: string,
    raw: RawSection,
    format: Format,
    first: number,
    columns: number,
    units: number,
  ): Promise<Piece> {
    const slabs = Math.ceil(raw.rows / SLAB);
    const vectors = format.vectors(units);
    const singles = format.singles(units);
    const rowsBytes = slabs * slabBytes(format, units);
    const storage = this.#host.create(rowsBytes + bookBytes(format), `weight "${name}"`);
    const singlesAt = slabs * vectors * 4 * SLAB;
    if (format.book) this.#host.gpu.device.queue.writeBuffer(storage.buffer, rowsBytes, format.book().buffer);
    const kernels = this.#kernelsOf(format);
    try {
      const ready = Promise.all([kernels.few[0]?.kernel().prepare(), kernels.tile().prepare()]);
      await Promise.all([ready, this.#fill(raw, format, storage.buffer, singlesAt, columns, units)]);
    } catch (error) {
      this.#host.release(storage);
      throw error;
    }
    return { format: format.name, kernels, storage, first, rows: raw.rows, vectors, singles, singlesAt };
  }

  async #fill(
    raw: RawSection,
    format: Format,
    buffer: GPUBuffer,
    singlesAt: number,
    columns: number,
    units: number,
  ): Promise<void> {
    const { queue } = this.#host.gpu.device;
    const stored = rowBytes(raw.type, columns) as number;
    // The formats of grouped rows see to it themselves.
    const padded = raw.type.grouping ? stored : (units * UNIT * raw.type.blockBytes) / raw.type.blockSize;
    const vectorWords = format.vectors(units) * 4 * SLAB;
    const singleWords = format.singles(units) * SLAB;
    const most = Math.min(Math.max(1, Math.floor(CHUNK_BYTES / (stored * SLAB))), Math.ceil(raw.rows / SLAB));
    const bytes = new Uint8Array(most * SLAB * stored);
    const row = new Uint8Array(padded);
    const words = new Uint32Array(most * (vectorWords + singleWords));
    const target = new RowTarget(words);
    for (let slab = 0; slab * SLAB < raw.rows; slab += most) {
      const rows = Math.min(most * SLAB, raw.rows - slab * SLAB);
      const slabs = Math.ceil(rows / SLAB);
      await raw.readRows(slab * SLAB, rows, bytes.subarray(0, rows * stored));
      words.fill(0);
      for (let r = 0; r < rows; r++) {
        const at = Math.floor(r / SLAB);
        target.place(at * vectorWords + 4 * (r % SLAB), slabs * vectorWords + at * singleWords + (r % SLAB));
        if (padded === stored) format.repack(bytes, r * stored, units, target);
        else {
          row.set(bytes.subarray(r * stored, (r + 1) * stored));
          format.repack(row, 0, units, target);
        }
      }
      queue.writeBuffer(buffer, slab * vectorWords * 4, words, 0, slabs * vectorWords);
      queue.writeBuffer(buffer, (singlesAt + slab * singleWords) * 4, words, slabs * vectorWords, slabs * singleWords);
      await this.#wrote(slabs * (vectorWords + singleWords) * 4);
    }
  }

  async #wrote(bytes: number): Promise<void> {
    this.#queued += bytes;
    if (this.#queued < QUEUED_BYTES) return;
    this.#queued = 0;
    await this.#host.gpu.device.queue.onSubmittedWorkDone();
  }

  #kernelsOf(format: Format): FormatKernels {
    const key = format.key ?? format.name;
    let made = this.#kernels.get(key);
    if (made === undefined) {
      made = formatKernels(this.#host, format);
      this.#kernels.set(key, made);
    }
    return made;
  }
}

function slabBytes(format: Format, units: number): number {
  return (format.vectors(units) * 16 + format.singles(units) * 4) * SLAB;
}

const bookBytes = ({ book }: Format) => book?.().byteLength ?? 0;

/** Rows as the kernels' formats know them. */
function kept(raw: RawSection, columns: number): RawSection {
  const { name, grouping } = raw.type;
  if (grouping || FORMATS.has(name)) return raw;
  return GROUPED_BLOCKS.get(name)?.rewrite(raw, columns) ?? expanded(raw, columns, floatsFor(name));
}
