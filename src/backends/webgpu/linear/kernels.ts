/** The kernels of one format. All are made of the format's `decode` and of a body that knows nothing about formats. */
import type { DeviceFacts } from '../device.ts';
import { lazy, type OpHost } from '../host.ts';
import type { Kernel, KernelSource } from '../kernel.ts';
import { LANES } from '../wgsl.ts';
import { CODES, type Codes } from './codes.ts';
import { type Format, HELPERS, QUADS } from './format.ts';
import { SLAB } from './repack.ts';
import { TILE, TILE_MEMORY, type TileParts, tileBody, tileShape } from './tile.ts';
import { TILE8_MEMORY, TILE8_SHAPE, tile8Body, VECTORS8 } from './tile8.ts';

/** Bits of the number `flags`. */
export const WITH_BIAS = 1;
export const ACCUMULATE = 2;

/** Rows of `x` that one pass of the kernels for few rows takes, and over how many lanes it splits a row of the matrix. */
const FEW = [
  { rows: 1, slices: 32 },
  { rows: 4, slices: 16 },
  { rows: 8, slices: 8 },
] as const;

export interface FewKernel {
  /** Rows that it takes at a time. */
  readonly rows: number;
  readonly kernel: () => Kernel;
}

export interface FormatKernels {
  /** By the rows that they take at a time, fewest first. */
  readonly few: readonly FewKernel[];
  readonly tile: () => Kernel;
  /** Whether tiles take rows quantized to 8 bits, see `quantize.ts`. */
  readonly int8: boolean;
  readonly gather: () => Kernel;
  /** One chosen expert at a time. */
  readonly expert: () => Kernel;
  /** A tile of the rows that chose the same expert. */
  readonly expertTile: () => Kernel;
}

export function formatKernels(host: OpHost, stored: Format): FormatKernels {
  const { facts } = host.gpu;
  // Software adapters unroll loops whose bounds they know, and compile the result for minutes.
  const decode = stored.decode.replaceAll(QUADS, facts.software ? 'min(8u, 8u * p.units)' : '8u');
  const format = { ...stored, decode };
  const codes = host.int8 ? CODES.get(format.key ?? format.name) : undefined;
  // Software adapters compile the longest one for seconds.
  const few = facts.software ? FEW.slice(0, 2) : FEW;
  return {
    few: few.map(({ rows, slices }) => ({ rows, kernel: lazy(host, () => fewSource(format, rows, slices, false)) })),
    tile: lazy(host, () => tileSource(format, facts, codes, false)),
    int8: codes !== undefined,
    gather: lazy(host, () => gatherSource(format)),
    expert: lazy(host, () => fewSource(format, 1, FEW[0].slices, true)),
    expertTile: lazy(host, () => tileSource(format, facts, codes, true)),
  };
}

const literal = (v: number) => (Number.isInteger(v) ? `${v}.0` : `${v}`);

/** What every kernel that decodes needs in front of `main`; `row` counts the rows of the piece. */
function decoder(format: Format): string {
  const table = format.table
    ? `var<workgroup> table: array<f32, 16>;
const TABLE = array<f32, 16>(${Array.from(format.table, literal).join(', ')});
fn looked(w: u32) -> vec4<f32> {
  return vec4<f32>(table[w & 255u], table[(w >> 8u) & 255u], table[(w >> 16u) & 255u], table[w >> 24u]);
}`
    : '';
  const book = format.book
    ? `fn entry(i: u32) -> u32 { return words((p.rows + ${SLAB - 1}u) / ${SLAB}u * p.singles * ${SLAB}u + i); }`
    : '';
  return `${HELPERS}${table}${book}
fn place(row: u32) -> vec2<u32> {
  let slab = row / ${SLAB}u;
  return vec2<u32>(slab * p.vectors, slab * p.singles) * ${SLAB}u + row % ${SLAB}u;
}
${format.decode}`;
}

const fillTable = (format: Format, lanes: number) =>
  format.table ? `for (var i = li; i < 16u; i += ${lanes}u) { table[i] = TABLE[i]; } workgroupBarrier();` : '';

/** Operands and numbers that all kernels share. */
const MATRIX_READS = [
  ['codes', 'vec4<u32>'],
  ['words', 'u32'],
] as const;
const MATRIX_NUMBERS = [
  ['units', 'u32'],
  ['vectors', 'u32'],
  ['singles', 'u32'],
  // Rows of the piece, and the number of the first in the matrix.
  ['rows', 'u32'],
  ['first', 'u32'],
  // Columns of the result.
  ['width', 'u32'],
] as const;

/** Writes a finished sum. */
const PUT = `
fn put(row: u32, column: u32, sum: f32) {
  let i = row * p.width + column;
  var v = sum;
  if ((p.flags & ${WITH_BIAS}u) != 0u) { v += bias(column); }
  if ((p.flags & ${ACCUMULATE}u) != 0u) { v += out(i); }
  set_out(i, v);
}
`;
const PUT_EXPERT = 'fn put(row: u32, column: u32, sum: f32) { set_out(row * p.width + column, sum); }';

/** Workgroups of rows come first, so that those of the same part of the matrix run together; z continues x. */
const GROUP_OF_ROWS = '(wid.z * nwg.x + wid.x)';

/**
 * A few rows of `x`: eight rows of the matrix a workgroup, `slices` lanes for each, which take units in turns. A decoded
 * unit serves all rows of `x`, whose columns wait in workgroup memory, nine vectors a unit so that slices hit different
 * banks. `experts`: one row of `x`, times the matrix of the expert that `ids` names.
 */
function fewSource(format: Format, count: number, slices: number, experts: boolean): KernelSource {
  const lanes = SLAB * slices;
  const each = Array.from({ length: count }, (_, m) => m);
  const row = experts
    ? `let m0 = ${GROUP_OF_ROWS};
let feature = wid.y * ${SLAB}u + f;
let row = u32(ids(min(m0, p.m - 1u))) * p.width + feature - p.first;
let column = feature;
let valid = feature < p.width && row < p.rows && m0 < p.m;`
    : `let m0 = ${GROUP_OF_ROWS} * ${count}u;
let row = wid.y * ${SLAB}u + f;
let column = p.first + row;
let valid = row < p.rows;`;
  return {
    label: `${experts ? 'expert' : `rows ${count}`} ${format.name}`,
    reads: [['x', 'vec4<f32>'], ...MATRIX_READS, ...(experts ? [['ids', 'i32'] as const] : [['bias', 'f32'] as const])],
    writes: [['out', 'f32']],
    numbers: [...MATRIX_NUMBERS, ['m', 'u32'], experts ? ['per_row', 'u32'] : ['flags', 'u32']],
    workgroup: [lanes, 1, 1],
    declarations: `${decoder(format)}${experts ? PUT_EXPERT : PUT}
var<workgroup> xs: array<vec4<f32>, ${count * slices * 9}>;
var<workgroup> sums: array<f32, ${count * lanes}>;`,
    body: `
let f = li % ${SLAB}u;
let s = li / ${SLAB}u;
${row}
let at = place(row);
${each.map((m) => `var a${m} = 0.0;`).join(' ')}
${fillTable(format, lanes)}
for (var u0 = 0u; u0 < p.units; u0 += ${slices}u) {
  let u = u0 + s;
  var w: array<vec4<f32>, 8>;
  if (valid && u < p.units) { w = decode(at, u); }
  for (var i = li; i < ${count * slices * 8}u; i += ${lanes}u) {
    let m = i / ${slices * 8}u;
    let q = i % ${slices * 8}u;
    var v = vec4<f32>();
    if (m0 + m < p.m && u0 * 8u + q < p.units * 8u) { v = x((m0 + m)${experts ? ' / p.per_row' : ''} * p.units * 8u + u0 * 8u + q); }
    xs[m * ${slices * 9}u + q / 8u * 9u + q % 8u] = v;
  }
  workgroupBarrier();
  ${each
    .map((m) => {
      const from = `s * 9u + ${m * slices * 9}u`;
      const dots = Array.from({ length: 8 }, (_, q) => `dot(w[${q}], xs[${from} + ${q}u])`);
      return `a${m} += ${dots.join(' + ')};`;
    })
    .join('\n  ')}
  workgroupBarrier();
}
${each.map((m) => `sums[${m * lanes}u + li] = a${m};`).join(' ')}
for (var stride = ${slices / 2}u; stride > 0u; stride /= 2u) {
  workgroupBarrier();
  if (s < stride) {
    ${each.map((m) => `sums[${m * lanes}u + li] += sums[${m * lanes}u + li + stride * ${SLAB}u];`).join(' ')}
  }
}
workgroupBarrier();
if (valid && s < ${count}u && m0 + s < p.m) { put(m0 + s, column, sums[s * ${lanes}u + f]); }
`,
  };
}

/** Writes those columns of a row that are among the `count` from `lowest` on. */
const putRow = (apart: number) => `
fn put_row(row: u32, column: u32, v: vec4<f32>, lowest: u32, count: u32) {
  ${['x', 'y', 'z', 'w'].map((part, i) => `if (column + ${i * apart}u - lowest < count) { put(row, column + ${i * apart}u, v.${part}); }`).join('\n  ')}
}
`;

/** What tiles of floats and of 8-bit codes differ in. */
function tileKind(facts: DeviceFacts, codes: Codes | undefined) {
  if (codes === undefined) {
    const shape = tileShape(facts);
    const load = Array.from({ length: 8 }, (_, q) => `ws[${TILE * q}u + li] = w[${q}];`);
    return {
      shape,
      vectors: 8,
      declarations: TILE_MEMORY,
      loadColumn: `let w = decode(at, u); ${load.join(' ')}`,
      body: (parts: TileParts) => tileBody(shape, parts),
    };
  }
  return {
    shape: TILE8_SHAPE,
    vectors: VECTORS8,
    declarations: `${codes.packed}${TILE8_MEMORY}`,
    loadColumn: `let w = packed(at, u); ws[li] = w[0]; ws[${TILE}u + li] = w[1]; ss[li] = scales(at, u);`,
    body: (parts: TileParts) => tile8Body(codes, parts),
  };
}

/** Many rows. `experts`: the rows of one tile are those that `plan` lists for the tile's expert. */
function tileSource(format: Format, facts: DeviceFacts, codes: Codes | undefined, experts: boolean): KernelSource {
  const { shape, vectors, declarations, loadColumn, body } = tileKind(facts, codes);
  const before = experts
    ? `let tile = min(${GROUP_OF_ROWS}, p.tiles) * 3u;
let base = i32(plan(tile) * p.width) - i32(p.first);
// The expert's columns whose rows of the matrix lie in this piece.
let lowest = clamp(-base, 0, i32(p.width));
let here = clamp(i32(p.rows) - base, lowest, i32(p.width)) - lowest;
let start = plan(tile + 1u);
let count = plan(tile + 2u);
let order = 3u * p.tiles + 3u + start;
let f0 = wid.y * 64u;
let at = place(u32(clamp(base + i32(f0 + li), 0, i32(p.rows) - 1)));`
    : `let m0 = ${GROUP_OF_ROWS} * 64u;
let f0 = wid.y * 64u;
let at = place(min(f0 + li, p.rows - 1u));`;
  return {
    label: `${experts ? 'expert tile' : 'tile'} ${format.name}${codes ? ' int8' : ''}`,
    reads: [['x', codes ? 'vec4<u32>' : 'vec4<f32>'], ...MATRIX_READS, experts ? ['plan', 'u32'] : ['bias', 'f32']],
    writes: [['out', 'f32']],
    numbers: [
      ...MATRIX_NUMBERS,
      ...(experts
        ? ([
            ['tiles', 'u32'],
            ['per_row', 'u32'],
          ] as const)
        : ([
            ['m', 'u32'],
            ['flags', 'u32'],
          ] as const)),
    ],
    ...(codes ? { language: ['packed_4x8_integer_dot_product'] as const } : {}),
    workgroup: [shape.lanes, 1, 1],
    declarations: `${decoder(format)}${experts ? PUT_EXPERT : PUT}${putRow(shape.apart)}${declarations}`,
    body: `${before}
${fillTable(format, shape.lanes)}
${body({
  steps: experts ? 'select(0u, p.units, count > 0u)' : 'p.units',
  loadColumns: `if (li < ${TILE}u) { ${loadColumn} }`,
  row: experts
    ? `x((plan(order + min(r, count - 1u)) / p.per_row * p.units + u) * ${vectors}u + q)`
    : `x((min(m0 + r, p.m - 1u) * p.units + u) * ${vectors}u + q)`,
  store: experts
    ? 'if (r < count) { put_row(plan(order + r), f0 + c, v, u32(lowest), u32(here)); }'
    : 'if (m0 + r < p.m) { put_row(m0 + r, p.first + f0 + c, v, p.first, p.rows); }',
})}`,
  };
}

/** Rows of the matrix by number: one lane decodes one unit. */
function gatherSource(format: Format): KernelSource {
  return {
    label: `gather ${format.name}`,
    reads: [...MATRIX_READS, ['ids', 'i32']],
    writes: [['out', 'f32']],
    numbers: [...MATRIX_NUMBERS, ['n', 'u32']],
    workgroup: [LANES, 1, 1],
    declarations: decoder(format),
    body: `
let item = (wid.y * nwg.x + wid.x) * ${LANES}u + li;
let r = item / p.units;
let u = item % p.units;
${fillTable(format, LANES)}
if (r >= p.n) { return; }
let row = u32(ids(r)) - p.first;
if (row >= p.rows) { return; }
let w = decode(place(row), u);
var v = w;
for (var c = 0u; c < min(32u, p.width - 32u * u); c++) { set_out(r * p.width + 32u * u + c, v[c / 4u][c % 4u]); }
`,
  };
}
