import type { WeightData } from '../../../core/backend.ts';
import type { Activation, Family } from './family.ts';

/** Consecutive rows of one format in one memory. */
export interface Section {
  readonly family: Family;
  /** Number of its first row in the matrix. */
  readonly first: number;
  readonly rows: number;
  readonly memory: number;
  readonly address: number;
  readonly bytes: number;
  /** Table entries of the kernels. */
  readonly tiles: readonly number[];
  readonly gather: number;
  readonly prepare: number;
  readonly experts: number;
}

/** A matrix as the kernels read it: sections below one another. */
export class CpuWeight implements WeightData {
  readonly columns: number;
  readonly sections: readonly Section[];
  /** Activations that the sections need, each once, and the table entries of their kernels. */
  readonly activations: readonly Activation[];
  readonly prepare: readonly number[];
  readonly formats: readonly string[];
  readonly bytes: number;
  /** Whether any section lies in a further memory. */
  readonly elsewhere: boolean;
  readonly #release: (section: Section) => void;
  #disposed = false;

  constructor(
    columns: number,
    sections: readonly Section[],
    entry: (kernel: Activation['kernel']) => number,
    release: (section: Section) => void,
  ) {
    this.columns = columns;
    this.sections = sections;
    this.activations = [...new Set(sections.map((s) => s.family.activation))];
    this.prepare = this.activations.map((a) => entry(a.kernel));
    this.formats = [...new Set(sections.map((s) => s.family.format))];
    this.bytes = sections.reduce((n, s) => n + s.bytes, 0);
    this.elsewhere = sections.some((s) => s.memory !== 0);
    this.#release = release;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const section of this.sections) this.#release(section);
  }
}
