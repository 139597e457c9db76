import { bf16ToF32, f32ToBf16 } from '../core/dtype.ts';
import { CODE_VALUES, e4m3Code } from './codes.ts';
import type { TensorFormat } from './format.ts';
import { extreme, roundAway } from './search.ts';

// E4M3 codes of all elements, then the f32 scales that they are multiplied with.

const f = Math.fround;
const MAX_E4M3 = 448;
const BLOCK = 128;
/** 448 divided by the smallest float, and back, must stay finite. */
const NO_SCALE = 1e-36;

/** Which elements share a scale: blocks of at most `rows` × `columns`. */
interface Tile {
  readonly rows: number;
  readonly columns: number;
}

const across = (size: number, part: number) => Math.ceil(size / part);

/** Codes under scales of tiles; `largest` is the largest magnitude of one. */
function tiled(
  name: string,
  tile: Tile,
  scaleOf: (largest: number) => number,
  encode: (x: number, scale: number, largest: number) => number,
  values: Float32Array,
): TensorFormat {
  const scales = (rows: number, columns: number) => across(rows, tile.rows) * across(columns, tile.columns);
  const eachTile = (
    rows: number,
    columns: number,
    body: (at: number, height: number, width: number, i: number) => void,
  ) => {
    let i = 0;
    for (let r = 0; r < rows; r += tile.rows) {
      for (let c = 0; c < columns; c += tile.columns) {
        body(r * columns + c, Math.min(tile.rows, rows - r), Math.min(tile.columns, columns - c), i++);
      }
    }
  };
  return {
    name,
    multiple: 1,
    largest: Number.MAX_VALUE,
    bytes: (rows, columns) => (rows ? rows * columns + 4 * scales(rows, columns) : 0),
    pack(x, columns, out) {
      const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
      eachTile(x.length / columns, columns, (at, height, width, i) => {
        let largest = 0;
        for (let r = 0; r < height; r++) largest = Math.max(largest, Math.abs(extreme(x, at + r * columns, width)));
        const scale = scaleOf(largest);
        view.setFloat32(x.length + 4 * i, scale, true);
        for (let r = 0; r < height; r++) {
          for (let p = at + r * columns; p < at + r * columns + width; p++) out[p] = encode(x[p]!, scale, largest);
        }
      });
    },
    unpack(bytes, rows, columns, out) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      eachTile(rows, columns, (at, height, width, i) => {
        const scale = view.getFloat32(rows * columns + 4 * i, true);
        for (let r = 0; r < height; r++) {
          for (let p = at + r * columns; p < at + r * columns + width; p++) out[p] = values[bytes[p]!]! * scale;
        }
      });
    },
  };
}

const scaleOfFp8 = (largest: number) => (largest > NO_SCALE ? f(largest / MAX_E4M3) : 1);
const divided = (x: number, scale: number) => e4m3Code(f(x / scale));
const bf16 = (x: number) => bf16ToF32(f32ToBf16(x));
const ALL: Tile = { rows: Number.MAX_SAFE_INTEGER, columns: Number.MAX_SAFE_INTEGER };
const ROW: Tile = { rows: 1, columns: Number.MAX_SAFE_INTEGER };

/** One scale for the tensor, whose elements are rounded to bfloat16 first. */
const perTensor = tiled(
  'F8E4M3',
  ALL,
  (largest) => (largest > NO_SCALE ? f(1 / f(MAX_E4M3 / bf16(largest))) : 1),
  (x, scale, largest) => e4m3Code(largest > NO_SCALE ? f(bf16(x) * f(MAX_E4M3 / bf16(largest))) : f(bf16(x) / scale)),
  CODE_VALUES.e4m3,
);

/** E4M3 under scales: of the tensor (`F8E4M3`), of each row, of blocks of 128 × 128. */
export const fp8Formats: readonly TensorFormat[] = [
  perTensor,
  tiled('F8E4M3_ROW', ROW, scaleOfFp8, divided, CODE_VALUES.e4m3),
  tiled('F8E4M3_BLOCK', { rows: BLOCK, columns: BLOCK }, scaleOfFp8, divided, CODE_VALUES.e4m3),
];

/** The 8-bit type of bitsandbytes: signed bytes under a scale for each row, `absmax / 127`. */
export const int8: TensorFormat = tiled(
  'INT8',
  ROW,
  (largest) => (largest > NO_SCALE ? f(largest / 127) : 1),
  (x, scale) => Math.max(-127, Math.min(127, roundAway(f(x / scale)))),
  CODE_VALUES.i8,
);
