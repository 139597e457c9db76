/** From the weights of a built model to the modules of a UQFF set: which there are, and what is in them. */
import type { RawSection } from '../../core/backend.ts';
import type { StorageTypeName } from '../../core/dtype.ts';
import { UnsupportedError } from '../../core/errors.ts';
import { eachChunk } from '../../core/io/rowChunks.ts';
import { SAFETENSORS_TYPES } from '../../core/io/safetensors.ts';
import type { TensorStream } from '../../core/io/uqffWrite.ts';
import { type Shape, sizeOf } from '../../core/tensor.ts';
import {
  readValues,
  type SourceTensor,
  storedRowBytes,
  type WeightMatrix,
  type WeightSource,
} from '../../core/weights.ts';
import type { Isq } from '../isq/index.ts';
import { type Decision, decide } from '../isq/plan.ts';
import { dequantizeInto } from '../rows.ts';
import { canStack, encodeModule } from './encode.ts';

export interface UqffModulePlan extends TensorStream {
  readonly name: string;
  readonly shape: Shape;
  /** What reports call the format. */
  readonly stored: string;
  /** Absent where the matrix stays as the checkpoint has it. */
  readonly decision: Decision | undefined;
}

export interface UqffPlan {
  /** In the order of their names. */
  readonly modules: readonly UqffModulePlan[];
  /** All other tensors, as the checkpoint has them. */
  readonly residual: readonly TensorStream[];
}

/**
 * Plans a set: every matrix that `isq` decides about becomes a module, experts one for gate, up and down each, and so do
 * matrices that safetensors files have no type for. Nothing is read.
 * @throws UnsupportedError for stored formats that have no place in UQFF files.
 */
export function planUqff(matrices: readonly WeightMatrix[], source: WeightSource, isq: Isq): UqffPlan {
  const planner = new Planner(source, isq);
  for (const m of matrices) {
    const { experts, parts, name } = m.weight;
    if (experts) planner.expert(m);
    else if (parts.length === 0) planner.whole(name.replace(/\.weight$/, ''), m.parts);
    else for (const part of m.parts) planner.stored(part);
  }
  return planner.finish();
}

class Planner {
  readonly #source: WeightSource;
  readonly #isq: Isq;
  readonly #modules = new Map<string, UqffModulePlan>();
  /** Tensors that modules hold. */
  readonly #held = new Set<string>();
  readonly #experts = new Map<string, WeightMatrix[]>();

  constructor(source: WeightSource, isq: Isq) {
    this.#source = source;
    this.#isq = isq;
  }

  /** The tensor that a part is, or is some of the rows of. */
  stored(part: SourceTensor): void {
    const root = rootOf(part);
    const module = root.replace(/\.weight$/, '');
    // Exchanged rows and columns have a name of their own.
    if (part.transposed) this.whole(`${module}_rows`, [part], module);
    else this.whole(module, [this.#source.get(root) ?? part]);
  }

  /** A module of these rows, one part below the other. */
  whole(name: string, parts: readonly SourceTensor[], module = name): void {
    if (this.#modules.has(name) || !this.#isModule(parts)) return;
    const first = parts[0] as SourceTensor;
    const columns = first.shape.at(-1) as number;
    const rows = parts.reduce((n, p) => n + rowsOf(p), 0);
    const shape = parts.length === 1 && !first.transposed ? first.shape : [rows, columns];
    const section = joined(parts.map((p) => this.#section(p)));
    this.#add(name, shape, section, this.#decision(first), this.#bias(`${module}.bias`, `${name}.bias`));
    for (const p of parts) this.#held.add(rootOf(p));
  }

  /** Input and output of the same experts are planned together. */
  expert(m: WeightMatrix): void {
    const path = m.weight.experts?.path ?? '';
    const seen = this.#experts.get(path);
    if (seen) seen.push(m);
    else this.#experts.set(path, [m]);
  }

  finish(): UqffPlan {
    for (const [path, matrices] of this.#experts) this.#planExperts(path, matrices);
    const residual: TensorStream[] = [];
    for (const name of this.#source.names()) {
      if (!this.#held.has(name)) residual.push(asStored(this.#source.get(name) as SourceTensor, name));
    }
    const modules = [...this.#modules.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return { modules, residual };
  }

  #planExperts(path: string, matrices: readonly WeightMatrix[]): void {
    const all = matrices.flatMap((m) => m.parts);
    if (!all.some((p) => this.#isModule([p]))) return;
    const read = matrices.map((m) => ({ ...m, sections: m.parts.map((p) => this.#section(p)) }));
    const stacked = read.every(
      ({ sections: [first, ...more] }) => first && canStack(first) && more.every((s) => s.type === first.type),
    );
    for (const { weight, parts, sections } of read) {
      const { count = 1, role, interleaved } = weight.experts ?? {};
      const columns = weight.shape[1];
      const names = role === 'input' ? ['gate_proj', 'up_proj'] : ['down_proj'];
      const rows = weight.shape[0] / count / names.length;
      const decision = this.#decision(parts[0] as SourceTensor);
      names.forEach((name, at) => {
        const of = (e: number) =>
          expertRows(sections, e * names.length * rows, { rows, at, of: names.length, interleaved });
        const each = Array.from({ length: count }, (_, e) => of(e));
        const biases = this.#expertBiases(path, name, { at, of: names.length, interleaved, rows, count });
        if (stacked) this.#add(`${path}${name}`, [count, rows, columns], joined(each), decision, biases);
        else {
          each.forEach((section, e) => {
            this.#add(`${path}${e}.${name}`, [rows, columns], section, decision, e === 0 ? biases : []);
          });
        }
      });
      for (const p of parts) {
        const root = rootOf(p);
        this.#held.add(root);
        if (root.endsWith('_blocks')) this.#held.add(root.replace(/_blocks$/, '_scales'));
      }
    }
  }

  /** Biases of all experts, from the one tensor of gate and up or from one of their own. */
  #expertBiases(path: string, name: string, how: Slice & { readonly count: number }): TensorStream[] {
    const { at, of, rows, count, interleaved } = how;
    const own = EXPERT_NAMES[name]?.map((n) => `${path}${n}.bias`).find((n) => this.#source.get(n));
    if (own) return this.#bias(own, `${path}${name}.bias`);
    const fused = `${path}${of > 1 ? 'gate_up_proj' : name}_bias`;
    const t = this.#source.get(fused);
    if (!t) return [];
    this.#held.add(fused);
    const shape = [count, rows];
    return [
      floatStream(`${path}${name}.bias`, shape, async () => {
        const values = await readValues(t, { dequantizeInto });
        const mine = new Float32Array(count * rows);
        for (let e = 0; e < count; e++) {
          for (let i = 0; i < rows; i++) {
            mine[e * rows + i] = values[e * of * rows + (interleaved ? i * of + at : at * rows + i)]!;
          }
        }
        return mine;
      }),
    ];
  }

  /** A bias under the name of its module, as F32, the type in which products are summed. */
  #bias(name: string, as: string): TensorStream[] {
    const t = this.#source.get(name);
    if (!t) return [];
    this.#held.add(name);
    return [floatStream(as, t.shape, () => readValues(t, { dequantizeInto }))];
  }

  #isModule(parts: readonly SourceTensor[]): boolean {
    return parts.some((p) => this.#decision(p) !== undefined || !isSafetensorsType(p.type.name));
  }

  #decision(part: SourceTensor): Decision | undefined {
    return decide(this.#isq.plan, part.name.replace(/(\[[\d,]*\])+$/, ''), part.shape.at(-1) as number);
  }

  #section(part: SourceTensor): RawSection {
    const { type } = part;
    return (
      this.#isq.section(part) ?? { type, rows: rowsOf(part), readRows: (first, n, to) => part.readRows(first, n, to) }
    );
  }

  #add(
    name: string,
    shape: Shape,
    section: RawSection,
    decision: Decision | undefined,
    biases: readonly TensorStream[],
  ): void {
    const module = encodeModule(name, shape, section);
    this.#modules.set(name, {
      ...module,
      decision,
      tensors: [...module.tensors, ...biases.flatMap((b) => b.tensors)],
      async stream(put) {
        await module.stream(put);
        for (const bias of biases) await bias.stream(put);
      },
    });
  }
}

/** Names of the matrices of experts in checkpoints, by those of modules. */
const EXPERT_NAMES: Readonly<Record<string, readonly string[]>> = {
  gate_proj: ['gate_proj', 'w1'],
  up_proj: ['up_proj', 'w3'],
  down_proj: ['down_proj', 'w2'],
};

function rootOf(t: SourceTensor): string {
  return t.part?.name ?? t.name;
}

function rowsOf(t: SourceTensor): number {
  return sizeOf(t.shape) / (t.shape.at(-1) as number);
}

function isSafetensorsType(name: StorageTypeName): boolean {
  return (SAFETENSORS_TYPES as readonly string[]).includes(name);
}

/** Sections of one type, one below the other. */
function joined(sections: readonly RawSection[]): RawSection {
  const [only] = sections;
  if (sections.length === 1 && only) return only;
  const rows = sections.reduce((n, s) => n + s.rows, 0);
  return {
    type: (only as RawSection).type,
    rows,
    async readRows(first, n, target) {
      const stride = target.length / n;
      let start = 0;
      for (const s of sections) {
        const from = Math.max(first, start);
        const to = Math.min(first + n, start + s.rows);
        if (from < to) {
          await s.readRows(from - start, to - from, target.subarray((from - first) * stride, (to - first) * stride));
        }
        start += s.rows;
      }
    },
  };
}

/** Which of the rows of an expert: number `at` of `of` matrices of `rows` rows, below one another or row by row in turn. */
interface Slice {
  readonly rows: number;
  readonly at: number;
  readonly of: number;
  readonly interleaved: boolean | undefined;
}

/** One matrix of one expert, whose rows begin at `start`. */
function expertRows(sections: readonly RawSection[], start: number, { rows, at, of, interleaved }: Slice): RawSection {
  let first = start + (interleaved ? 0 : at * rows);
  const section = sections.find((s) => {
    if (first < s.rows) return true;
    first -= s.rows;
    return false;
  }) as RawSection;
  if (!interleaved) {
    return { type: section.type, rows, readRows: (row, n, to) => section.readRows(first + row, n, to) };
  }
  return {
    type: section.type,
    rows,
    async readRows(row, n, target) {
      const stride = target.length / n;
      const all = new Uint8Array(of * target.length);
      await section.readRows(first + row * of, n * of, all);
      for (let i = 0; i < n; i++) {
        const from = (i * of + at) * stride;
        target.set(all.subarray(from, from + stride), i * stride);
      }
    },
  };
}

/** Bytes of a tensor that is copied at a time. */
const COPY_BYTES = 4 << 20;

/** A tensor as the checkpoint has it. */
function asStored(t: SourceTensor, name: string): TensorStream {
  if (!isSafetensorsType(t.type.name)) {
    throw new UnsupportedError(
      `tensor "${name}": expected a type of safetensors files, got ${t.type.grouping?.label ?? t.type.name}`,
      { feature: `${t.type.name} in UQFF files` },
    );
  }
  const columns = t.shape.at(-1) ?? 1;
  const rows = columns ? sizeOf(t.shape) / columns : 0;
  const stride = storedRowBytes(t);
  return {
    tensors: [{ name, type: t.type.name, shape: t.shape }],
    stream: (put) =>
      eachChunk({ rows, readRows: (...run) => t.readRows(...run) }, stride, COPY_BYTES, (first, _n, bytes) =>
        put(name, first * stride, bytes),
      ),
  };
}

function floatStream(name: string, shape: Shape, values: () => Promise<Float32Array>): TensorStream {
  return {
    tensors: [{ name, type: 'F32', shape }],
    async stream(put) {
      const { buffer, byteOffset, byteLength } = await values();
      await put(name, 0, new Uint8Array(buffer, byteOffset, byteLength));
    },
  };
}
