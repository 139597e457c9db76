import type { WeightData } from '../../../core/backend.ts';
import type { Weight } from '../../../core/weight.ts';
import type { GpuStorage } from '../storage.ts';
import type { FormatKernels } from './kernels.ts';

/** Consecutive rows of one format in one buffer: first all vectors, then all single words. */
export interface Piece {
  /** The format as reports name it. */
  readonly format: string;
  readonly kernels: FormatKernels;
  readonly storage: GpuStorage;
  /** Number of its first row in the matrix. */
  readonly first: number;
  readonly rows: number;
  /** Vectors and single words of a row. */
  readonly vectors: number;
  readonly singles: number;
  /** Place of the single words, in words. */
  readonly singlesAt: number;
}

/** A matrix in device memory: pieces below one another. */
export class GpuWeight implements WeightData {
  readonly columns: number;
  /** Units of a row, the last one padded with zeros. */
  readonly units: number;
  readonly pieces: readonly Piece[];
  readonly formats: readonly string[];
  readonly bytes: number;
  readonly #release: (storage: GpuStorage) => void;
  #disposed = false;

  constructor(columns: number, units: number, pieces: readonly Piece[], release: (storage: GpuStorage) => void) {
    this.columns = columns;
    this.units = units;
    this.pieces = pieces;
    this.formats = [...new Set(pieces.map((p) => p.format))];
    this.bytes = pieces.reduce((n, p) => n + p.storage.bytes, 0);
    this.#release = release;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const { storage } of this.pieces) this.#release(storage);
  }
}

export function dataOf(weight: Weight): GpuWeight {
  return weight.data as GpuWeight;
}
