import type { RawSection, RawWeight } from '../../../core/backend.ts';
import { rowBytes } from '../../../core/dtype.ts';
import { WeightError } from '../../../core/errors.ts';
import { expanded, floatsFor } from '../../expanded.ts';
import { checkedHalves } from '../../finite.ts';
import { arrange } from '../../sections.ts';
import type { Kernel } from '../kernel.ts';
import type { Kernels } from '../kernels.ts';
import type { CpuMemory } from '../memory.ts';
import type { Ring } from '../ring.ts';
import { expertsKernel } from './experts.ts';
import { familyOf, floatFamilyOf } from './families.ts';
import type { Family, MakeFamily } from './family.ts';
import { GROUP, groupsOf } from './layout.ts';
import { CpuWeight, type Section } from './weight.ts';

/** Bytes read at a time, at least one group of rows. Two such buffers alternate: one is read while the other is repacked. */
const CHUNK_BYTES = 2 << 20;

/** What loading needs of its back-end. */
export interface LoadHost {
  readonly ring: Ring;
  readonly kernels: Kernels;
  readonly memories: readonly CpuMemory[];
  /** Room for weights: the number of a memory and an address in it. */
  place(bytes: number, what: string): Promise<{ readonly memory: number; readonly address: number }>;
  allocate(memory: number, bytes: number, what: string): number;
  release(memory: number, address: number): void;
  /** Formats are kept as they are, or expanded to floats for exact arithmetic. */
  readonly expand: boolean;
  /** Most bytes that are kept in one place. */
  readonly pieceBytes: number;
}

interface Buffer {
  readonly address: number;
  /** Resolves when the last repacking from it has run. */
  free: Promise<void>;
}

/** Reads weights from checkpoints, rows by rows, straight into a memory where the threads repack them. */
export class WeightLoader {
  readonly #host: LoadHost;
  readonly #families = new Map<string, Family>();
  /** By memory. */
  readonly #buffers: { readonly bytes: number; readonly pair: readonly Buffer[] }[] = [];
  /** Loads take turns: they share the buffers. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(host: LoadHost) {
    this.#host = host;
  }

  /** Bytes of the buffers. */
  get bufferBytes(): number {
    return this.#buffers.reduce((n, b) => n + 2 * b.bytes, 0);
  }

  /** Resolves when everything has been read; commands enqueued later find it repacked. */
  load(raw: RawWeight): Promise<CpuWeight> {
    const loaded = this.#last.then(() => this.#load(raw));
    this.#last = loaded.catch(() => {});
    return loaded;
  }

  async #load(raw: RawWeight): Promise<CpuWeight> {
    const [rows, columns] = raw.shape;
    const given = raw.sections.reduce((n, s) => n + s.rows, 0);
    if (given !== rows) throw new WeightError(`weight "${raw.name}": expected ${rows} rows, got ${given}`);
    const sections: Section[] = [];
    try {
      let first = 0;
      // No format takes more than a float per column.
      const most = Math.max(1, Math.floor(this.#host.pieceBytes / (4 * columns * GROUP))) * GROUP;
      for (const section of arrange(raw.sections, columns, most, GROUP)) {
        sections.push(await this.#section(raw.name, checkedHalves(section, raw.name, first, columns), first, columns));
        first += section.rows;
      }
    } catch (error) {
      for (const s of sections) this.#host.release(s.memory, s.address);
      throw error;
    }
    const { kernels } = this.#host;
    return new CpuWeight(
      columns,
      sections,
      (kernel) => kernels.entry(kernel),
      (s) => this.#host.release(s.memory, s.address),
    );
  }

  async #section(name: string, raw: RawSection, first: number, columns: number): Promise<Section> {
    const stored = rowBytes(raw.type, columns);
    if (stored === undefined) {
      const { blockSize } = raw.type;
      throw new WeightError(
        `weight "${name}": expected rows of whole ${raw.type.name} blocks (${blockSize}), got ${columns} columns`,
      );
    }
    const known = this.#host.expand ? undefined : familyOf(raw.type);
    const floats = this.#host.expand ? 'F32' : floatsFor(raw.type.name);
    const [key, make] = known ?? floatFamilyOf(floats);
    const family = this.#family(key, make);
    const source = known
      ? (family.rewrite?.(raw, columns) ?? raw)
      : raw.type.name === 'F32'
        ? raw
        : expanded(raw, columns, floats);
    const bytes = groupsOf(raw.rows) * family.groupBytes(columns);
    const { memory, address } = await this.#host.place(bytes, `weight "${name}"`);
    try {
      await this.#fill(source, family, memory, address, columns);
      const entry = (k: unknown) => this.#host.kernels.entry(k as Kernel, memory);
      return {
        ...{ family, first, rows: raw.rows, memory, address, bytes },
        tiles: family.tiles.map(entry),
        gather: entry(family.gather),
        prepare: entry(family.activation.kernel),
        experts: entry(expertsKernel),
      };
    } catch (error) {
      this.#host.release(memory, address);
      throw error;
    }
  }

  async #fill(raw: RawSection, family: Family, memory: number, target: number, columns: number): Promise<void> {
    const { ring, kernels, memories } = this.#host;
    const stored = rowBytes(raw.type, columns)!;
    const groupsPerChunk = Math.max(1, Math.floor(CHUNK_BYTES / (stored * GROUP)));
    const buffers = this.#buffersOf(memory, groupsPerChunk * GROUP * stored);
    const entry = kernels.entry(family.repack, memory);
    const at = family.repack.at;
    for (let row = 0, i = 0; row < raw.rows; row += groupsPerChunk * GROUP, i++) {
      const buffer = buffers[i % buffers.length]!;
      await buffer.free;
      const rows = Math.min(groupsPerChunk * GROUP, raw.rows - row);
      await this.#read(raw, row, rows, stored, memory, buffer.address);
      const groups = groupsOf(rows);
      memories[memory]!.views.u8.fill(0, buffer.address + rows * stored, buffer.address + groups * GROUP * stored);
      const command = ring.begin(entry);
      const words = ring.wordsOf(memory);
      words[command + at.source] = buffer.address;
      words[command + at.target] = target + (row / GROUP) * family.groupBytes(columns);
      words[command + at.groups] = groups;
      words[command + at.columns] = columns;
      buffer.free = ring.finish();
      // Whoever awaits the buffer next gets the failure.
      buffer.free.catch(() => {});
    }
  }

  async #read(
    raw: RawSection,
    first: number,
    rows: number,
    stored: number,
    memory: number,
    address: number,
  ): Promise<void> {
    const to = this.#host.memories[memory]!;
    if (to.shared) {
      await raw.readRows(first, rows, to.views.u8.subarray(address, address + rows * stored));
      return;
    }
    // Memory that is not shared moves when it grows, which may happen during the wait.
    const bytes = new Uint8Array(rows * stored);
    await raw.readRows(first, rows, bytes);
    to.views.u8.set(bytes, address);
  }

  /** Two buffers of at least `bytes` bytes. */
  #buffersOf(memory: number, bytes: number): readonly Buffer[] {
    const known = this.#buffers[memory];
    if (known && known.bytes >= bytes) return known.pair;
    for (const buffer of known?.pair ?? []) this.#host.release(memory, buffer.address);
    const size = Math.max(bytes, CHUNK_BYTES);
    const pair = [0, 1].map(() => ({
      address: this.#host.allocate(memory, size, 'buffer for loading'),
      free: Promise.resolve(),
    }));
    this.#buffers[memory] = { bytes: size, pair };
    return pair;
  }

  #family(key: string, make: MakeFamily): Family {
    let family = this.#families.get(key);
    if (!family) {
      family = make(this.#host.kernels.variant);
      this.#families.set(key, family);
    }
    return family;
  }
}
