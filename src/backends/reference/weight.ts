import type { RawWeight, WeightData } from '../../core/backend.ts';
import { rowBytes } from '../../core/dtype.ts';
import { WeightError } from '../../core/errors.ts';
import { dequantizeInto } from '../../quant/index.ts';

/** Rows read from the checkpoint at a time. */
const ROWS_PER_READ = 256;

/** A matrix dequantized to f32. */
export class ReferenceWeight implements WeightData {
  readonly values: Float32Array;
  readonly formats: readonly string[] = ['F32'];
  readonly #release: (bytes: number) => void;

  private constructor(values: Float32Array, release: (bytes: number) => void) {
    this.values = values;
    this.#release = release;
  }

  get bytes(): number {
    return this.values.byteLength;
  }

  dispose(): void {
    this.#release(this.bytes);
  }

  static async load(raw: RawWeight, release: (bytes: number) => void): Promise<ReferenceWeight> {
    const [rows, width] = raw.shape;
    const given = raw.sections.reduce((n, s) => n + s.rows, 0);
    if (given !== rows) throw new WeightError(`weight "${raw.name}": expected ${rows} rows, got ${given}`);
    const values = new Float32Array(rows * width);
    let at = 0;
    for (const section of raw.sections) {
      const bytes = rowBytes(section.type, width);
      if (bytes === undefined) {
        throw new WeightError(
          `weight "${raw.name}": expected rows of whole ${section.type.name} blocks (${section.type.blockSize}), got ${width} columns`,
        );
      }
      const packed = new Uint8Array(Math.min(ROWS_PER_READ, section.rows) * bytes);
      for (let first = 0; first < section.rows; first += ROWS_PER_READ) {
        const count = Math.min(ROWS_PER_READ, section.rows - first);
        await section.readRows(first, count, packed.subarray(0, count * bytes));
        dequantizeInto(section.type, packed, 0, values, at, count * width);
        at += count * width;
      }
    }
    return new ReferenceWeight(values, release);
  }
}
