/**
 * Rows of codes under the scales of column groups (`src/core/grouped.ts`). Codes lie like those of other formats, and in
 * single words scale by scale, each with its bias behind it. Indexed rows have the u16 numbers of their columns' groups in
 * front, once for the eight rows of a slab, which share them.
 */
import { codeBits, type GroupCode, type Grouping, groupedRow } from '../../../core/grouped.ts';
import { CODE_VALUES } from '../../../quant/codes.ts';
import { i32, u16 } from '../../../quant/format.ts';
import { blocks, type Format, floats, QUADS, scales, word } from './format.ts';
import { type RowTarget, SLAB, UNIT } from './repack.ts';
import { eightBits, fourBits, valuesOf } from './units.ts';

const tableValues = valuesOf(fourBits, 'looked');

/** Without infinities; the codes of NaN give it. */
const E4M3 = `fn e4m3(w: u32) -> vec4<f32> {
  let b = (vec4<u32>(w) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
  let m = b & vec4<u32>(127u);
  let small = bitcast<vec4<u32>>(vec4<f32>(m) * 0.001953125);
  let finite = select((m << vec4<u32>(20u)) + vec4<u32>(0x3c000000u), small, m < vec4<u32>(8u));
  let all = select(finite, vec4<u32>(0x7fc00000u), m == vec4<u32>(127u));
  return bitcast<vec4<f32>>(all | ((b & vec4<u32>(128u)) << vec4<u32>(24u)));
}
${valuesOf(eightBits, 'e4m3')}`;

const VALUES: Readonly<Record<GroupCode, string>> = {
  u4: valuesOf(fourBits),
  u8: valuesOf(eightBits),
  i8: valuesOf(eightBits, 'signed'),
  e4m3: E4M3,
  nf4: tableValues,
  fp4: tableValues,
  e2m1: tableValues,
};

/** Words of the numbers of groups, for each row of a slab its part of those of a unit. */
const INDEX_WORDS = UNIT / 2 / SLAB;

/** How columns find their scale. */
type Reach = 'row' | 'units' | 'halves' | 'columns' | 'indexed';

function reachOf(g: Grouping, columns: number): Reach {
  if (g.indexed) return 'indexed';
  if (g.group >= columns) return 'row';
  if (g.group % UNIT === 0) return 'units';
  return g.group === UNIT / 2 ? 'halves' : 'columns';
}

function decodeOf(g: Grouping, reach: Reach): string {
  const step = g.bias ? 2 : 1;
  const bias = (group: string) => (g.bias ? `-bitcast<f32>(${word(`${step}u * (${group}) + 1u`)})` : '0.0');
  const scale = (group: string) => `bitcast<f32>(${word(`${step}u * (${group})`)})`;
  if (reach === 'row' || reach === 'units') {
    const group = reach === 'row' ? '0u' : `u / ${g.group / UNIT}u`;
    return blocks(
      VALUES[g.code],
      scales(`let d = ${scale(group)}; let m = ${bias(group)}; return vec4<f32>(d, m, d, m);`),
    );
  }
  if (reach === 'halves') {
    const [first, second] = ['2u * u', '2u * u + 1u'] as const;
    return blocks(
      VALUES[g.code],
      scales(`return vec4<f32>(${scale(first)}, ${bias(first)}, ${scale(second)}, ${bias(second)});`),
    );
  }
  const first = reach === 'indexed' ? `${INDEX_WORDS}u * p.units + ` : '';
  const groups =
    reach === 'indexed'
      ? // The unit's numbers lie in one piece over the rows of the slab.
        `let numbers = (at.y & ${~(SLAB - 1) >>> 0}u) + ${INDEX_WORDS * SLAB}u * u + 2u * q;
    let a = words(numbers);
    let b = words(numbers + 1u);
    let g = vec4<u32>(a & 0xffffu, a >> 16u, b & 0xffffu, b >> 16u);`
      : `let g = (vec4<u32>(${UNIT}u * u + 4u * q) + vec4<u32>(0u, 1u, 2u, 3u)) / ${g.group}u;`;
  const four = (offset: string) => {
    const each = ['x', 'y', 'z', 'w'].map((i) => `bitcast<f32>(${word(`${first}${step}u * g.${i}${offset}`)})`);
    return `vec4<f32>(${each.join(', ')})`;
  };
  return `${VALUES[g.code]}
${floats(`var w = values(at, u);
  for (var q = 0u; q < ${QUADS}; q++) {
    ${groups}
    w[q] = w[q] * ${four('')}${g.bias ? ` + ${four(' + 1u')}` : ''};
  }
  return w;`)}`;
}

/** Four nibbles in the lower half of a word, each in a byte. */
const spread = (w: number) => (w & 15) | ((w & 0xf0) << 4) | ((w & 0xf00) << 8) | ((w & 0xf000) << 12);

/** The codes of a unit: sixteen bytes of nibbles in order of columns. */
function nibblesInOrder(to: RowTarget, u: number, bytes: Uint8Array, from: number): void {
  for (let i = 0; i < 4; i++) {
    const low = i32(bytes, from + 4 * (i >> 1)) >>> (16 * (i & 1));
    const high = i32(bytes, from + 8 + 4 * (i >> 1)) >>> (16 * (i & 1));
    to.vector(4 * u + i, spread(low) | (spread(high) << 4));
  }
}

/** The format of grouped rows of `columns` columns. */
export function groupedFormat(g: Grouping, columns: number): Format {
  const reach = reachOf(g, columns);
  const layout = groupedRow(g, columns);
  const nibbles = codeBits(g.code) === 4;
  const step = g.bias ? 2 : 1;
  const whole = reach === 'row' || reach === 'indexed';
  const units = Math.ceil(columns / UNIT);
  // Behind a row that ends amid a unit there are zeros.
  const codes = new Uint8Array(units * (nibbles ? UNIT / 2 : UNIT));
  const groups = whole ? layout.groups : Math.ceil((units * UNIT) / g.group);
  const index = g.indexed ? INDEX_WORDS * units : 0;
  return {
    name: g.label,
    key: `grouped ${g.code} ${reach}${whole ? '' : ` ${g.group}`}${g.bias ? ' bias' : ''}`,
    vectors: (n) => (nibbles ? n : 2 * n),
    singles: () => index + step * groups,
    ...(VALUES[g.code] === tableValues ? { table: CODE_VALUES[g.code] } : {}),
    decode: decodeOf(g, reach),
    repack(bytes, at, n, to) {
      for (let i = 0; i < layout.groups; i++) {
        to.word(index + step * i, i32(bytes, at + 4 * i));
        if (g.bias) to.word(index + step * i + 1, i32(bytes, at + layout.biases + 4 * i));
      }
      for (let k = 0; g.indexed && k < columns; k += 2) {
        const second = k + 1 < columns ? u16(bytes, at + layout.index + 2 * k + 2) : 0;
        to.shared(k >> 1, u16(bytes, at + layout.index + 2 * k) | (second << 16));
      }
      codes.set(bytes.subarray(at + layout.codes, at + layout.bytes));
      for (let u = 0; u < n; u++) {
        if (nibbles) nibblesInOrder(to, u, codes, 16 * u);
        else {
          to.copy(2 * u, codes, 32 * u);
          to.copy(2 * u + 1, codes, 32 * u + 16);
        }
      }
    },
  };
}
