import type { StorageTypeName } from '../core/dtype.ts';
import { UnsupportedError } from '../core/errors.ts';
import { denseFormats } from './dense.ts';
import type { QuantFormat } from './format.ts';
import { mxfp4, nvfp4 } from './fp4.ts';
import { iq1_m, iq1_s } from './iq1.ts';
import { iq2_s, iq2_xs, iq2_xxs } from './iq2.ts';
import { iq3_s, iq3_xxs } from './iq3.ts';
import { iq4_nl, iq4_xs } from './iq4.ts';
import { q2_k } from './q2_k.ts';
import { q3_k } from './q3_k.ts';
import { q4_0, q4_1 } from './q4.ts';
import { q4_k } from './q4_k.ts';
import { q5_0, q5_1 } from './q5.ts';
import { q5_k } from './q5_k.ts';
import { q6_k } from './q6_k.ts';
import { q8_0, q8_1, q8_k } from './q8.ts';
import { q1_0, tq1_0, tq2_0 } from './ternary.ts';

const formats: readonly QuantFormat[] = [
  ...denseFormats,
  ...[q4_0, q4_1, q5_0, q5_1, q8_0, q8_1],
  ...[q2_k, q3_k, q4_k, q5_k, q6_k, q8_k],
  ...[iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s, iq4_nl, iq4_xs],
  ...[tq1_0, tq2_0, q1_0, mxfp4, nvfp4],
];

/** What can be done with a storage type. */
export interface QuantType {
  readonly name: StorageTypeName;
  /** Consecutive elements of a row that are stored together. */
  readonly blockSize: number;
  readonly blockBytes: number;
  readonly bitsPerWeight: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Writing takes an importance vector into account. */
  readonly usesImportance: boolean;
}

/** Every storage type: block sizes, bits per weight, and whether `quantize` can write it. */
export const quantTypes: readonly QuantType[] = formats.map(({ type, pack, usesImportance }) => ({
  name: type.name,
  blockSize: type.blockSize,
  blockBytes: type.blockBytes,
  bitsPerWeight: (type.blockBytes * 8) / type.blockSize,
  readable: true,
  writable: pack !== undefined,
  usesImportance: usesImportance ?? false,
}));

// `Q4K`, `q4_k` and `Q4_K` are the same type: names are compared in upper case and without separators.
const key = (name: string): string => name.toUpperCase().replace(/[_-]/g, '');

const byName: ReadonlyMap<string, QuantFormat> = new Map(
  formats.flatMap((format) => [
    [format.type.name, format],
    [key(format.type.name), format],
  ]),
);

/**
 * The format of a storage type; case and underscores of the name do not matter.
 * @throws UnsupportedError for an unknown name.
 */
export function quantFormat(name: string): QuantFormat {
  const format = byName.get(name) ?? byName.get(key(name));
  if (format) return format;
  const names = formats.map((f) => f.type.name).join(', ');
  throw new UnsupportedError(`quantization type: expected one of ${names}; got "${name}"`, { feature: name });
}
