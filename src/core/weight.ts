import type { WeightData } from './backend.ts';
import { WeightError } from './errors.ts';

/**
 * A named matrix `[out, in]` in whatever format it is stored. Models hold the handle; the back-end's data behind it is
 * filled at load and may be exchanged later (re-quantization) without touching model code.
 */
export class Weight {
  readonly name: string;
  readonly shape: readonly [number, number];
  #data: WeightData | undefined;

  constructor(name: string, shape: readonly [number, number], data?: WeightData) {
    this.name = name;
    this.shape = shape;
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
