import { FormatError, UnsupportedError } from '../../core/errors.ts';
import { affine, checkTensor, floatsOf, integer, type Replaced, wordsOf } from './parts.ts';

const BITS = 4;
const PER_WORD = 8;
/** Place in its word of column 0 … 7. */
const PLACES = [0, 4, 1, 5, 2, 6, 3, 7] as const;

/**
 * AWQ in the GEMM layout: `scale · (q − zero)`. `qweight` `[in, out / 8]` has eight outputs to a word, first the even ones,
 * then the odd ones; `qzeros` `[groups, out / 8]` likewise; `scales` `[groups, out]`.
 */
export function readAwq(r: Replaced, settings: Readonly<Record<string, unknown>>): void {
  const version = String(settings['version'] ?? settings['format'] ?? 'gemm').toLowerCase();
  const bits = integer(settings, 'bits', integer(settings, 'w_bit', BITS));
  if (version !== 'gemm' || bits !== BITS) {
    throw new UnsupportedError(
      `quantization_config: expected AWQ version gemm with 4 bits, got ${version} with ${bits}`,
      { feature: `AWQ layout ${version}` },
    );
  }
  for (const module of r.modules('.qweight')) {
    const weight = r.take(`${module}.qweight`);
    const scales = r.take(`${module}.scales`);
    const zeros = r.optional(`${module}.qzeros`);
    const [columns = 0] = weight.shape;
    const [groups = 0, out = 0] = scales.shape;
    checkTensor(weight, 'I32', [columns, out / PER_WORD]);
    if (zeros) checkTensor(zeros, 'I32', [groups, out / PER_WORD]);
    if (!groups || columns % groups !== 0) {
      throw new FormatError(`${module}: expected groups of one size, got ${groups} groups of ${columns} columns`);
    }
    const group = columns / groups;
    r.add({
      name: `${module}.weight`,
      order: weight.order,
      shape: [out, columns],
      grouping: affine('AWQ4', BITS, columns, group),
      async prepare() {
        const [words, scaleOf] = [await wordsOf(weight), await floatsOf(scales)];
        const zeroWords = zeros && (await wordsOf(zeros));
        const stride = out / PER_WORD;
        return (first, rows, row, done) => {
          for (let o = first; o < first + rows; o++) {
            const at = Math.floor(o / PER_WORD);
            const shift = BITS * PLACES[o % PER_WORD]!;
            for (let g = 0; g < groups; g++) {
              const zero = zeroWords ? (zeroWords[g * stride + at]! >>> shift) & 15 : 8;
              row.scales[g] = scaleOf[g * out + o]!;
              row.biases[g] = -zero * row.scales[g]!;
            }
            for (let k = 0; k < columns; k++) row.codes[k] = (words[k * stride + at]! >>> shift) & 15;
            done();
          }
        };
      },
    });
  }
}
