/** Quantization in place: matrices become smaller while they are read. */
import type { RawSection } from '../../core/backend.ts';
import { rowBytes, type StorageType, storageType } from '../../core/dtype.ts';
import { ConfigError, messageOf, UnsupportedError, WeightError } from '../../core/errors.ts';
import { type Grouping, groupedType } from '../../core/grouped.ts';
import type { QuantLayer, QuantReport } from '../../core/sdk/quantReport.ts';
import { sizeOf } from '../../core/tensor.ts';
import type { Recoder, SourceTensor } from '../../core/weights.ts';
import { quantFormat } from '../registry.ts';
import { dequantizeInto } from '../rows.ts';
import type { Importance } from './importance.ts';
import type { Packers } from './packers.ts';
import type { PackTarget } from './packRows.ts';
import { type Decision, decide, type IsqPlan, moduleOf, roleOf, tensorOf } from './plan.ts';
import { ISQ_TYPES, type IsqType, multipleOf, storedAs } from './types.ts';

type Row = { -readonly [K in keyof QuantLayer]: QuantLayer[K] };

/** Elements that are read at a time while the largest of a tensor is sought. */
const SCAN_ELEMENTS = 1 << 20;

/** Applies a plan to the matrices of a model, and remembers what it did. */
export class Isq implements Recoder {
  readonly plan: IsqPlan;
  readonly #packers: Packers;
  readonly #importance: Importance | undefined;
  readonly #rows = new Map<string, Row>();
  readonly #types = new Map<string, StorageType>();
  #bytesBefore = 0;
  #quantizedExperts = false;
  /** Matrices an importance was looked up for, and those that had none. */
  #measured = 0;
  #unmeasured = 0;
  #ignored = false;

  constructor(plan: IsqPlan, packers: Packers, importance?: Importance) {
    this.plan = plan;
    this.#packers = packers;
    this.#importance = importance;
  }

  section(part: SourceTensor): RawSection | undefined {
    const columns = part.shape[part.shape.length - 1] as number;
    const rows = sizeOf(part.shape) / columns;
    const name = tensorOf(part.name);
    const decision = decide(this.plan, name, columns);
    if (!decision) return undefined;
    if (this.plan.expertsOnly && !decision.pinned && part.type.blockSize > 1) {
      this.#quantizedExperts = true;
      return undefined;
    }
    const stored = rowBytes(part.type, columns);
    if (stored === undefined) return undefined;
    const { target } = decision;
    const type = target && this.#typeOf(target, columns);
    this.#record(name, decision, rows, columns, part.type, type);
    if (!target || !type || type.name === part.type.name) return undefined;
    return {
      type,
      rows,
      readRows: this.#reader(part, name, target, type, columns, stored),
    };
  }

  /** Demands that something was quantized. Returns what a user should be told. */
  check(): readonly string[] {
    if (this.#rows.size === 0 && !this.#quantizedExperts) {
      throw this.plan.expertsOnly
        ? new UnsupportedError(
            'mixtureQexpertsIsq: expected a model with routed experts, got one without; use isq alone',
            {
              feature: 'mixtureQexpertsIsq',
            },
          )
        : new ConfigError('isq: expected weights that it applies to, found none; check the topology');
    }
    const notes: string[] = [];
    if (this.#quantizedExperts) {
      notes.push('mixtureQexpertsIsq: the experts of this checkpoint are quantized already and stay as they are');
    }
    const fallbacks = new Map<string, number>();
    for (const { fallback: f } of this.#rows.values()) {
      if (f) add(fallbacks, `${f.from} became ${f.to}: ${f.reason}`);
    }
    for (const [what, count] of fallbacks) notes.push(`isq: in ${count} weights ${what}`);
    if (this.#importance) {
      if (this.#measured === 0 && !this.#ignored) {
        throw new ConfigError(
          `${this.#importance.where}: expected importance for this model, found none of its weights`,
        );
      }
      if (this.#unmeasured > 0) {
        notes.push(`isq: ${this.#unmeasured} weights have no importance in ${this.#importance.where}`);
      }
      if (this.#ignored) notes.push('isq: the importance has no effect on types other than Q2K to Q6K');
    }
    return notes;
  }

  /** What a tensor, or a part of one, has become; `undefined` where it stays as it is stored. */
  typeOf(name: string): IsqType | undefined {
    const stored = this.#rows.get(moduleOf(name))?.stored;
    return ISQ_TYPES.find((type) => type === stored);
  }

  report(seconds: number): QuantReport {
    const layers = [...this.#rows.values()];
    const bytesAfter = layers.reduce((n, l) => n + l.bytes, 0);
    return { default: this.plan.type, layers, bytesBefore: this.#bytesBefore, bytesAfter, seconds };
  }

  #typeOf(target: IsqType, columns: number): StorageType {
    const name = storedAs(target);
    if (name !== 'GROUPED') return storageType(name);
    const key = `${target} ${columns}`;
    const known = this.#types.get(key);
    if (known) return known;
    // One object per type: back-ends join neighbours of the same one.
    const type = groupedType(groupingOf(target, columns), columns);
    this.#types.set(key, type);
    return type;
  }

  #record(
    name: string,
    d: Decision,
    rows: number,
    columns: number,
    from: StorageType,
    to: StorageType | undefined,
  ): void {
    const module = moduleOf(name);
    const bytes = rows * (rowBytes(to ?? from, columns) as number);
    this.#bytesBefore += rows * (rowBytes(from, columns) as number);
    const seen = this.#rows.get(module);
    if (seen) {
      seen.shape = [seen.shape[0] + rows, columns];
      seen.bytes += bytes;
      return;
    }
    const stored = d.target ?? from.grouping?.label ?? from.name;
    this.#rows.set(module, {
      module,
      requested: d.requested,
      resolved: d.resolved,
      stored,
      shape: [rows, columns],
      bytes,
      ...(d.target === d.resolved
        ? {}
        : {
            fallback: {
              from: d.resolved,
              to: stored,
              reason: `rows of ${columns} do not divide by ${multipleOf(d.resolved)}`,
            },
          }),
      ...(d.promoted ? { promoted: true as const } : {}),
      ...(d.pinned ? { pinned: true as const } : {}),
    });
  }

  #reader(
    part: SourceTensor,
    name: string,
    target: IsqType,
    type: StorageType,
    columns: number,
    stored: number,
  ): RawSection['readRows'] {
    const rows = sizeOf(part.shape) / columns;
    const importance = this.#importanceOf(part, name, type, columns);
    const experts = importance ? importance.length / columns : 1;
    const perExpert = rows / experts;
    let pack: Promise<PackTarget> | undefined;
    return async (first, n, out) => {
      pack ??= packTarget(part, target, type, columns);
      const into = await pack;
      for (let row = first; row < first + n; ) {
        const expert = Math.floor(row / perExpert);
        const end = Math.min(first + n, (expert + 1) * perExpert);
        const bytes = new Uint8Array((end - row) * stored);
        await part.readRows(row, end - row, bytes);
        const packed = await this.#pack(name, row, {
          ...{ from: part.type, columns, bytes, target: into },
          importance: importance?.slice(expert * columns, (expert + 1) * columns),
        });
        out.set(packed, (row - first) * type.blockBytes * (columns / type.blockSize));
        row = end;
      }
    };
  }

  async #pack(name: string, row: number, job: Parameters<Packers['pack']>[0]): Promise<Uint8Array> {
    try {
      return await this.#packers.pack(job);
    } catch (error) {
      throw new WeightError(`weight "${name}", from row ${row} on: ${messageOf(error)}`, { cause: error });
    }
  }

  /** The weights of the columns; of stacked experts, those of one after those of another. */
  #importanceOf(part: SourceTensor, name: string, type: StorageType, columns: number): Float32Array | undefined {
    if (!this.#importance || roleOf(name) === 'other') return undefined;
    if (type.grouping || !quantFormat(type.name).usesImportance) {
      this.#ignored = true;
      return undefined;
    }
    const slab = /\[(\d+)\]$/.exec(part.name)?.[1];
    const rows = sizeOf(part.shape) / columns;
    const values = this.#importance.find(name, rows, columns, slab === undefined ? undefined : Number(slab));
    if (values) this.#measured++;
    else this.#unmeasured++;
    return values;
  }
}

function add(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function groupingOf(target: IsqType, columns: number): Grouping {
  if (target === 'F8E4M3') return { label: target, code: 'e4m3', group: columns, bias: false, indexed: false };
  const rows = { label: target, group: 64, bias: true, indexed: false };
  return target === 'HQQ4' ? { ...rows, code: 'u4', activationBits: 8 } : { ...rows, code: 'u8' };
}

async function packTarget(
  part: SourceTensor,
  target: IsqType,
  type: StorageType,
  columns: number,
): Promise<PackTarget> {
  const { grouping } = type;
  if (!grouping) return { kind: 'blocks', name: type.name };
  if (target !== 'F8E4M3') return { kind: 'hqq', bits: target === 'HQQ4' ? 4 : 8, grouping };
  return { kind: 'fp8', largest: await largestOf(part, columns), grouping };
}

/** The largest magnitude of a tensor, read once from end to end. */
async function largestOf(part: SourceTensor, columns: number): Promise<number> {
  const rows = sizeOf(part.shape) / columns;
  const stored = rowBytes(part.type, columns) as number;
  const step = Math.max(1, Math.floor(SCAN_ELEMENTS / columns));
  let largest = 0;
  for (let row = 0; row < rows; row += step) {
    const n = Math.min(step, rows - row);
    const bytes = new Uint8Array(n * stored);
    await part.readRows(row, n, bytes);
    const values = new Float32Array(n * columns);
    dequantizeInto(part.type, bytes, 0, values, 0, values.length);
    for (const value of values) {
      const size = Math.abs(value);
      if (!(size < Number.POSITIVE_INFINITY)) {
        throw new WeightError(
          `weight "${part.name}": expected finite values, got ${value}; keep this tensor in a float type`,
        );
      }
      if (size > largest) largest = size;
    }
  }
  return largest;
}
