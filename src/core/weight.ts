import type { WeightData } from './backend.ts';
import { WeightError } from './errors.ts';
import type { Tensor } from './tensor.ts';

/** Rows `[first, count]` of a stored matrix, in the order in which they are used. */
export type RowRuns = readonly (readonly [first: number, count: number])[];

/** Which stored matrix some consecutive rows of a weight come from. */
export interface WeightPart {
  /** Name of the stored tensor. */
  readonly name: string;
  readonly runs: RowRuns;
}

/** What a weight of routed experts holds: for every expert its rows, one expert below the other. */
export interface ExpertStack {
  readonly count: number;
  /** Name of the module that holds the experts, with a final dot. */
  readonly path: string;
  /** `input`: gate above up, unless they alternate. */
  readonly role: 'input' | 'output';
  readonly interleaved: boolean;
}

/** Something that is added to the products of a weight for some of the rows: adapters. */
export interface WeightDelta {
  /** `out += Δ(x)` */
  add(out: Tensor, x: Tensor): void;
  /** The same behind `linearExperts`. */
  addExperts(out: Tensor, x: Tensor, experts: Tensor, expertCount: number): void;
}

/** Something that is told what a weight is multiplied with: statistics of activations. */
export interface WeightObserver {
  see(x: Tensor): void;
  /** The same for `linearExperts`. */
  seeExperts(x: Tensor, experts: Tensor): void;
}

/**
 * A named matrix `[out, in]` in whatever format it is stored. Models hold the handle; the back-end's data behind it is
 * filled at load and may be exchanged later (re-quantization) without touching model code.
 */
export class Weight {
  readonly name: string;
  readonly shape: readonly [number, number];
  /** Where the rows come from, from the first to the last; empty where they are no rows of stored matrices. */
  readonly parts: readonly WeightPart[];
  readonly experts: ExpertStack | undefined;
  /** Set while there are adapters for this weight. */
  delta: WeightDelta | undefined;
  /** Set while statistics are collected. */
  observer: WeightObserver | undefined;
  #data: WeightData | undefined;

  constructor(
    name: string,
    shape: readonly [number, number],
    data?: WeightData,
    origin: { readonly parts?: readonly WeightPart[]; readonly experts?: ExpertStack | undefined } = {},
  ) {
    this.name = name;
    this.shape = shape;
    this.parts = origin.parts ?? [];
    this.experts = origin.experts;
    this.#data = data;
  }

  get data(): WeightData {
    if (!this.#data)
      throw new WeightError(`weight "${this.name}": expected loaded data, got none; load the model first`);
    return this.#data;
  }

  get isLoaded(): boolean {
    return this.#data !== undefined;
  }

  /** Puts new data behind the handle and releases the old. */
  replace(data: WeightData): void {
    const old = this.#data;
    this.#data = data;
    old?.dispose();
  }

  dispose(): void {
    this.#data?.dispose();
    this.#data = undefined;
  }
}
