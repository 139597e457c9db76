/** Writing systems by the tables of Unicode 9, as the UnicodeScripts pre-tokenizer knows them. */
import { CodePointSet } from './unicode.ts';

/** Characters that got a script after Unicode 9. */
const NEWER = new CodePointSet(
  '128 14 2v 1a dc+2 2p+a 6+x 6+8 m 9+l 89+2 3c 3o+5 2e 4v 1k w+1 q d 2g+1 m d 4 1j+1 1x 79 3 3 2+5 5 8 8+1 3 e k ' +
    '1mn 8 a 6o 2x g7+u 3+b 2p 2+1 1a+2 7e+1 6+16 3+2 1k 3 70+4 jp+2 n2 14+2 1gt+1 z+2 d 9+p 5+f 1c 1c di+o bj+3 8f+1 ' +
    '3w+4 11+1 a 7k 59z+9 g7r+15 1io 9+10 l+5 1i 5u+1 h3+5 fvb+g a6+f 1t+1 1j+7 1b+1 pp b5+2 g1+a 2+e 2+6 2+1 2+a 2+e ' +
    '2+6 2+1 4+1f b1+5 2+15 2+8 au+p 63+1 j jc+13 9+9 7+11 4+s 9+1 6p+15 2+2 3+1 h+5 9+8 y+19 9+15 n+p 13+r l+m 3e+5 ' +
    '25 b 3b+3 3r+1 34+2 6y 1x+9 2 3 2+11 2+9 2 3 2+3 2+9 2+1 9+1 3c 4+3 gn+1 n+j 1j 12+6 56+1n 5h+6 3 3+7 2+1 2+t ' +
    '2+1 3+b a+9 1z+7 3+19 3+a s+1z 9+2a e+f 1t+9 2f+7 2h+x f+9 7b+6 2+1 2+17 4 2+1 2+8 9+9 7+5 2+1 2+10 2+1 2+5 8+9 ' +
    '7+17 5+9 6v+o 8+g 2+14 4+s 2e g+1d e 32p+2q u5+12 b+32y 5qe+1l 1tj+26 2+9 hj+1l 5j+2i 6+o 3+o 36+5 5 1c+8 2i+3 ' +
    'c+6 4qf+i l0+de 16+v 2q+36 6pq+3 2+6 2+1 4+80 g u+2 3 f+3 9+az 4xx+70 4+c3 7+m g+g g+19 3+m a+37 fa+1 5y+j d+j ' +
    '3j+6 2a0+u 7+5 7a+1p y 35+18 4+d 3+9 5+1 8x+u i+1l 6 cx+15 5z+16 5 5d+u 2+l 9+1 69+6 2+3 2+1 2+e 99 me+1v 25+1o ' +
    'r4+2 w 1p+3 1q 4z+5 vi+5 4+3 o+5 3c+b 2e+4 7+b 5 5c+b 5+1 f+8 14+f g 9+7 2+1 d d+3 g+w j+19 2+46 9+d 3+c 4+a ' +
    '4+1k 2 5+f 3+b 5+9 8+42 2+2u xr1+8 386+a 4mb+b 3+5rk g+h9 3hf+3t6 6+6jt',
);

const NAMES = (
  'Common Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Thaana Devanagari Bengali Gurmukhi Gujarati Oriya Tamil ' +
  'Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic Cherokee Canadian_Aboriginal ' +
  'Ogham Runic Khmer Mongolian Hiragana Katakana Bopomofo Han Yi Old_Italic Gothic Deseret Inherited Tagalog Hanunoo ' +
  'Buhid Tagbanwa Limbu Tai_Le Linear_B Ugaritic Shavian Osmanya Cypriot Braille Buginese Coptic New_Tai_Lue ' +
  'Glagolitic Tifinagh Syloti_Nagri Old_Persian Kharoshthi Balinese Cuneiform Phoenician Phags_Pa Nko Sundanese Lepcha ' +
  'Ol_Chiki Vai Saurashtra Kayah_Li Rejang Lycian Carian Lydian Cham Tai_Tham Tai_Viet Avestan Egyptian_Hieroglyphs ' +
  'Samaritan Lisu Bamum Javanese Meetei_Mayek Imperial_Aramaic Old_South_Arabian Inscriptional_Parthian ' +
  'Inscriptional_Pahlavi Old_Turkic Kaithi Batak Brahmi Mandaic Chakma Meroitic_Cursive Meroitic_Hieroglyphs Miao ' +
  'Sharada Sora_Sompeng Takri Caucasian_Albanian Bassa_Vah Duployan Elbasan Grantha Pahawh_Hmong Khojki Linear_A ' +
  'Mahajani Manichaean Mende_Kikakui Modi Mro Old_North_Arabian Nabataean Palmyrene Pau_Cin_Hau Old_Permic ' +
  'Psalter_Pahlavi Siddham Khudawadi Tirhuta Warang_Citi Ahom Anatolian_Hieroglyphs Hatran Multani Old_Hungarian ' +
  'SignWriting Adlam Bhaiksuki Marchen Newa Osage Tangut'
).split(' ');

const COMMON = 1 + NAMES.indexOf('Common');
const DEVANAGARI = 1 + NAMES.indexOf('Devanagari');
const HAN = 1 + NAMES.indexOf('Han');

/** No script: the character goes with whatever is around it. */
export const ANY_SCRIPT = 0;

/** A function from code points to script numbers, `ANY_SCRIPT` for spaces and characters without one. Kana counts as Han. */
export function scriptFinder(): (code: number) => number {
  const matcher = new RegExp(`^(?:${NAMES.map((name) => `(\\p{Script=${name}})`).join('|')})$`, 'u');
  const known = new Map<number, number>();
  return (code) => {
    let script = known.get(code);
    if (script === undefined) known.set(code, (script = scriptOf(code, matcher)));
    return script;
  };
}

function scriptOf(code: number, matcher: RegExp): number {
  if (code === 0x20) return ANY_SCRIPT;
  // Characters whose script was another one then.
  if (code === 0x30fc) return HAN;
  if (code === 0x589 || code === 0x61c) return COMMON;
  if (code === 0x953 || code === 0x954) return DEVANAGARI;
  if (NEWER.has(code)) return ANY_SCRIPT;
  const match = matcher.exec(String.fromCodePoint(code));
  if (match === null) return ANY_SCRIPT;
  const script = match.indexOf(match[0], 1);
  const name = NAMES[script - 1];
  return name === 'Hiragana' || name === 'Katakana' ? HAN : script;
}
