import type { RawSection, RawWeight, WeightData } from '../../core/backend.ts';
import { rowBytes, type StorageType } from '../../core/dtype.ts';
import { WeightError } from '../../core/errors.ts';
import { dequantizeInto } from '../../quant/index.ts';

/** Rows read from the checkpoint at a time. */
const ROWS_PER_READ = 256;

/** Consecutive rows: floats, or blocks as the checkpoint has them. */
interface Section {
  readonly type: StorageType;
  /** Number of the row behind the last. */
  readonly end: number;
  readonly values: Float32Array | undefined;
  readonly packed: Uint8Array;
  readonly rowBytes: number;
}

/** A matrix: blocks stay as they are and are decoded row by row; numbers of other types become f32. */
export class ReferenceWeight implements WeightData {
  readonly bytes: number;
  readonly formats: readonly string[];
  readonly #sections: readonly Section[];
  readonly #width: number;
  readonly #decoded: Float32Array;
  readonly #release: (bytes: number) => void;

  private constructor(sections: readonly Section[], width: number, release: (bytes: number) => void) {
    this.#sections = sections;
    this.#width = width;
    this.#decoded = new Float32Array(width);
    this.#release = release;
    this.bytes = sections.reduce((n, s) => n + s.packed.byteLength, 0);
    const names = sections.map(({ type, values }) => (values ? 'F32' : (type.grouping?.label ?? type.name)));
    this.formats = [...new Set(names)];
  }

  /** A row as floats, until the next one is asked for. */
  row(index: number): Float32Array {
    let first = 0;
    for (const s of this.#sections) {
      if (index < s.end) {
        const at = index - first;
        if (s.values) return s.values.subarray(at * this.#width, (at + 1) * this.#width);
        dequantizeInto(s.type, s.packed, at * s.rowBytes, this.#decoded, 0, this.#width);
        return this.#decoded;
      }
      first = s.end;
    }
    throw new WeightError(`expected a row below ${first}, got ${index}`);
  }

  dispose(): void {
    this.#release(this.bytes);
  }

  static async load(raw: RawWeight, release: (bytes: number) => void): Promise<ReferenceWeight> {
    const [rows, width] = raw.shape;
    const given = raw.sections.reduce((n, s) => n + s.rows, 0);
    if (given !== rows) throw new WeightError(`weight "${raw.name}": expected ${rows} rows, got ${given}`);
    const sections: Section[] = [];
    let end = 0;
    for (const section of raw.sections) {
      end += section.rows;
      sections.push(await loadSection(raw.name, section, width, end));
    }
    return new ReferenceWeight(sections, width, release);
  }
}

async function loadSection(name: string, raw: RawSection, width: number, end: number): Promise<Section> {
  const stored = rowBytes(raw.type, width);
  if (stored === undefined) {
    throw new WeightError(
      `weight "${name}": expected rows of whole ${raw.type.name} blocks (${raw.type.blockSize}), got ${width} columns`,
    );
  }
  if (raw.type.blockSize > 1) {
    const packed = new Uint8Array(raw.rows * stored);
    for (let first = 0; first < raw.rows; first += ROWS_PER_READ) {
      const count = Math.min(ROWS_PER_READ, raw.rows - first);
      await raw.readRows(first, count, packed.subarray(first * stored, (first + count) * stored));
    }
    return { type: raw.type, end, values: undefined, packed, rowBytes: stored };
  }
  const values = new Float32Array(raw.rows * width);
  const bytes = new Uint8Array(Math.min(ROWS_PER_READ, raw.rows) * stored);
  for (let first = 0; first < raw.rows; first += ROWS_PER_READ) {
    const count = Math.min(ROWS_PER_READ, raw.rows - first);
    await raw.readRows(first, count, bytes.subarray(0, count * stored));
    dequantizeInto(raw.type, bytes, 0, values, first * width, count * width);
  }
  return { type: raw.type, end, values, packed: new Uint8Array(values.buffer), rowBytes: 4 * width };
}
