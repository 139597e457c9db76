/** The formats whose codes name vectors of a code book, and base-3 digits. The book lies behind the rows of the piece. */
import { iq1Book, iq2sBook, iq2xsBook, iq2xxsBook, iq3sBook, iq3xxsBook } from '../../../quant/books.ts';
import { i32, u16 } from '../../../quant/format.ts';
import { eachUnit, type Format, floats, half, halves, none, QUADS, scales, supers, word } from './format.ts';
import type { RowTarget } from './repack.ts';

/** Four components to a word. */
const words = (book: () => Int8Array) => () => new Uint32Array(book().slice().buffer);

/** `body` gives the word of the book for columns `4 q …` of the unit, and four bits that go with it. */
const quad = (body: string) => `fn quad(at: vec2<u32>, u: u32, q: u32) -> vec2<u32> { ${body} }`;

const looped = (body: string) => `var w: array<vec4<f32>, 8>;
  for (var q = 0u; q < ${QUADS}; q++) { ${body} }
  return w;`;

/** Vectors with signs. A code of seven signs has an eighth that makes their number even. */
const withSigns = (quads: string, scale: string) => `
fn evened(code: u32) -> u32 { return code | ((countOneBits(code) & 1u) << 7u); }
${quads}
${scale}
${floats(`let s = scales(at, u);
  ${looped(`let e = quad(at, u, q);
    let v = signed(entry(e.x)) * select(s.x, s.z, q >= 4u);
    w[q] = select(v, -v, ((vec4<u32>(e.y) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u)) != vec4<u32>());`)}`)}`;

/** Vectors that are shifted by an eighth: down where the bit is set. */
const shifted = (quads: string, scale: string) => `${quads}
${scale}
${floats(`let s = scales(at, u);
  ${looped(`let e = quad(at, u, q);
    w[q] = (signed(entry(e.x)) + select(0.125, -0.125, e.y != 0u)) * select(s.x, s.z, q >= 4u);`)}`)}`;

/** Both halves of the unit have one scale. */
const same = (value: string) => scales(`let d = ${value}; return vec4<f32>(d, 0.0, d, 0.0);`);
const both = (body: string, first: string, second: string) =>
  scales(`${body} return vec4<f32>(${first}, 0.0, ${second}, 0.0);`);

/** Byte `index` of the words from `first` on. */
const byte = (first: string, index: string) =>
  `((${word(`${first} + ((${index}) >> 2u)`)} >> (8u * ((${index}) & 3u))) & 255u)`;
/** Byte of the unit among those of its block of eight units, which begin at word `first + 2 block`. */
const unitByte = (first: string) => byte(`${first} + 2u * (u >> 3u)`, 'u & 7u');

/** Two words of bytes for each unit of a block. */
function unitBytes(to: RowTarget, first: number, block: number, bytes: Uint8Array, at: number): void {
  to.word(first + 2 * block, i32(bytes, at));
  to.word(first + 2 * block + 1, i32(bytes, at + 4));
}

const IQ3_SIGNS = word('2u * p.units + u');

export const bookFormats: readonly Format[] = [
  {
    name: 'IQ2_XXS',
    vectors: none,
    // Entries, signs with the scale, d.
    singles: (units) => 2 * units + halves(supers(units)),
    book: words(iq2xxsBook),
    decode: withSigns(
      quad(`let l = q >> 1u;
  let signs = evened((${word('2u * u + 1u')} >> (7u * l)) & 127u);
  return vec2<u32>(2u * ((${word('2u * u')} >> (8u * l)) & 255u) + (q & 1u), signs >> (4u * (q & 1u)));`),
      same(`${half('2u * p.units', '(u >> 3u)')} * (0.5 + f32(${word('2u * u + 1u')} >> 28u)) * 0.25`),
    ),
    repack: eachUnit(
      66,
      (to, u, bytes, at) => {
        to.word(2 * u, i32(bytes, at + 2 + 8 * (u & 7)));
        to.word(2 * u + 1, i32(bytes, at + 6 + 8 * (u & 7)));
      },
      (to, block, bytes, at, units) => to.half(2 * units, block, u16(bytes, at)),
    ),
  },
  {
    name: 'IQ2_XS',
    vectors: none,
    // Entries with signs, scales, d.
    singles: (units) => 2 * units + units / 4 + halves(supers(units)),
    book: words(iq2xsBook),
    decode: withSigns(
      quad(`let w = ${word('2u * u + (q >> 2u)')} >> (16u * ((q >> 1u) & 1u));
  return vec2<u32>(2u * (w & 511u) + (q & 1u), evened((w >> 9u) & 127u) >> (4u * (q & 1u)));`),
      both(
        `let d = ${half('2u * p.units + (p.units >> 2u)', '(u >> 3u)')} * 0.25; let s = ${unitByte('2u * p.units')};`,
        'd * (0.5 + f32(s & 15u))',
        'd * (0.5 + f32(s >> 4u))',
      ),
    ),
    repack: eachUnit(
      74,
      (to, u, bytes, at) => {
        to.word(2 * u, i32(bytes, at + 2 + 8 * (u & 7)));
        to.word(2 * u + 1, i32(bytes, at + 6 + 8 * (u & 7)));
      },
      (to, block, bytes, at, units) => {
        unitBytes(to, 2 * units, block, bytes, at + 66);
        to.half(2 * units + units / 4, block, u16(bytes, at));
      },
    ),
  },
  {
    name: 'IQ2_S',
    vectors: none,
    // Low bytes of entries, signs, high bits of entries, scales, d.
    singles: (units) => 2 * units + units / 2 + halves(supers(units)),
    book: words(iq2sBook),
    decode: withSigns(
      quad(`let l = q >> 1u;
  let e = ((${word('u')} >> (8u * l)) & 255u) | (((${unitByte('2u * p.units')} >> (2u * l)) & 3u) << 8u);
  return vec2<u32>(2u * e + (q & 1u), ${word('p.units + u')} >> (4u * q));`),
      both(
        `let d = ${half('2u * p.units + (p.units >> 1u)', '(u >> 3u)')} * 0.25;
  let s = ${unitByte('2u * p.units + (p.units >> 2u)')};`,
        'd * (0.5 + f32(s & 15u))',
        'd * (0.5 + f32(s >> 4u))',
      ),
    ),
    repack: eachUnit(
      82,
      (to, u, bytes, at) => to.word(u, i32(bytes, at + 2 + 4 * (u & 7))),
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 8; i++) to.word(units + 8 * block + i, i32(bytes, at + 34 + 4 * i));
        unitBytes(to, 2 * units, block, bytes, at + 66);
        unitBytes(to, 2 * units + units / 4, block, bytes, at + 74);
        to.half(2 * units + units / 2, block, u16(bytes, at));
      },
    ),
  },
  {
    name: 'IQ3_XXS',
    vectors: none,
    // Entries, signs with the scale, d.
    singles: (units) => 3 * units + halves(supers(units)),
    book: words(iq3xxsBook),
    decode: withSigns(
      quad(`let signs = evened((${IQ3_SIGNS} >> (7u * (q >> 1u))) & 127u);
  return vec2<u32>(${byte('2u * u', 'q')}, signs >> (4u * (q & 1u)));`),
      same(`${half('3u * p.units', '(u >> 3u)')} * (0.5 + f32(${IQ3_SIGNS} >> 28u)) * 0.5`),
    ),
    repack: eachUnit(
      98,
      (to, u, bytes, at) => {
        to.word(2 * u, i32(bytes, at + 2 + 8 * (u & 7)));
        to.word(2 * u + 1, i32(bytes, at + 6 + 8 * (u & 7)));
      },
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 8; i++) to.word(2 * units + 8 * block + i, i32(bytes, at + 66 + 4 * i));
        to.half(3 * units, block, u16(bytes, at));
      },
    ),
  },
  {
    name: 'IQ3_S',
    vectors: none,
    // Low bytes of entries, signs, high bits of entries, scales, d.
    singles: (units) => 3 * units + units / 4 + supers(units) + halves(supers(units)),
    book: words(iq3sBook),
    decode: withSigns(
      quad(`let e = ${byte('2u * u', 'q')} | (((${unitByte('3u * p.units')} >> q) & 1u) << 8u);
  return vec2<u32>(e, ${IQ3_SIGNS} >> (4u * q));`),
      same(`${half('3u * p.units + (p.units >> 2u) + (p.units >> 3u)', '(u >> 3u)')}
    * (1.0 + 2.0 * f32((${word('3u * p.units + (p.units >> 2u) + (u >> 3u)')} >> (4u * (u & 7u))) & 15u))`),
    ),
    repack: eachUnit(
      110,
      (to, u, bytes, at) => {
        to.word(2 * u, i32(bytes, at + 2 + 8 * (u & 7)));
        to.word(2 * u + 1, i32(bytes, at + 6 + 8 * (u & 7)));
      },
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 8; i++) to.word(2 * units + 8 * block + i, i32(bytes, at + 74 + 4 * i));
        unitBytes(to, 3 * units, block, bytes, at + 66);
        to.word(3 * units + units / 4 + block, i32(bytes, at + 106));
        to.half(3 * units + units / 4 + supers(units), block, u16(bytes, at));
      },
    ),
  },
  {
    name: 'IQ1_S',
    vectors: none,
    // Low bytes of entries, their high bits with scale and shift, d.
    singles: (units) => units + units / 2 + halves(supers(units)),
    book: words(iq1Book),
    decode: shifted(
      quad(`let h = ${word('p.units + (u >> 1u)')} >> (16u * (u & 1u));
  let l = q >> 1u;
  let e = ((${word('u')} >> (8u * l)) & 255u) | (((h >> (3u * l)) & 7u) << 8u);
  return vec2<u32>(2u * e + (q & 1u), h & 0x8000u);`),
      same(`${half('p.units + (p.units >> 1u)', '(u >> 3u)')}
    * f32(2u * ((${word('p.units + (u >> 1u)')} >> (16u * (u & 1u) + 12u)) & 7u) + 1u)`),
    ),
    repack: eachUnit(
      50,
      (to, u, bytes, at) => to.word(u, i32(bytes, at + 2 + 4 * (u & 7))),
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 4; i++) to.word(units + 4 * block + i, i32(bytes, at + 34 + 4 * i));
        to.half(units + units / 2, block, u16(bytes, at));
      },
    ),
  },
  {
    name: 'IQ1_M',
    vectors: none,
    // Low bytes of entries, their high bits with shifts, scales with the pieces of d.
    singles: (units) => units + units / 2 + units / 4,
    book: words(iq1Book),
    decode: shifted(
      quad(`let l = q >> 1u;
  let h = ${word('p.units + (u >> 1u)')} >> (16u * (u & 1u) + 4u * l);
  let e = ((${word('u')} >> (8u * l)) & 255u) | ((h & 7u) << 8u);
  return vec2<u32>(2u * e + (q & 1u), h & 8u);`),
      both(
        `let first = p.units + (p.units >> 1u) + 2u * (u >> 3u);
  let a = ${word('first')};
  let b = ${word('first + 1u')};
  let d = half(((a >> 12u) & 15u) | ((a >> 24u) & 0xf0u) | ((b >> 4u) & 0xf00u) | ((b >> 16u) & 0xf000u));
  let s = select(a, b, (u & 4u) != 0u) >> (16u * ((u >> 1u) & 1u) + 6u * (u & 1u));`,
        'd * f32(2u * (s & 7u) + 1u)',
        'd * f32(2u * ((s >> 3u) & 7u) + 1u)',
      ),
    ),
    repack: eachUnit(
      56,
      (to, u, bytes, at) => to.word(u, i32(bytes, at + 4 * (u & 7))),
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 4; i++) to.word(units + 4 * block + i, i32(bytes, at + 32 + 4 * i));
        unitBytes(to, units + units / 2, block, bytes, at + 48);
      },
    ),
  },
  {
    name: 'TQ1_0',
    vectors: none,
    // Bytes of digits, d.
    singles: (units) => 13 * supers(units) + halves(supers(units)),
    // A byte is a fraction: times 3 brings out its highest digit. Five digits of 32 bytes, then of 16, four of the last 4.
    decode: floats(`let d = ${half('13u * (p.units >> 3u)', '(u >> 3u)')};
  let run = u & 7u;
  ${looped(`var place = q;
    var digit = run;
    if (run >= 5u) {
      place = 8u + (q & 3u);
      digit = 2u * (run - 5u) + (q >> 2u);
      if (digit == 5u) { place = 12u; digit = q - 4u; }
    }
    var power = 1u;
    for (var n = 0u; n < digit; n++) { power *= 3u; }
    let b = (vec4<u32>(${word('13u * (u >> 3u) + place')}) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
    let fraction = (b * power) & vec4<u32>(255u);
    w[q] = (vec4<f32>((fraction * 3u) >> vec4<u32>(8u)) - 1.0) * d;`)}`),
    repack: eachUnit(
      54,
      () => {},
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 13; i++) to.word(13 * block + i, i32(bytes, at + 4 * i));
        to.half(13 * supers(units), block, u16(bytes, at + 52));
      },
    ),
  },
];
