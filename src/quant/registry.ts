import type { StorageType } from '../core/dtype.ts';
import { UnsupportedError } from '../core/errors.ts';
import { afqFormats } from './afq.ts';
import { fp4, nf4 } from './book4.ts';
import { denseFormats } from './dense.ts';
import { f8q8 } from './f8q8.ts';
import type { QuantFormat, TensorFormat } from './format.ts';
import { mxfp4, nvfp4 } from './fp4.ts';
import { fp8Formats, int8 } from './fp8.ts';
import { groupedFormat } from './grouped.ts';
import { hqqFormats } from './hqq.ts';
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
  ...[...afqFormats, f8q8, nf4, fp4],
];

const tensorFormats: readonly TensorFormat[] = [...hqqFormats, ...fp8Formats, int8];

/** What can be done with a storage type. */
export interface QuantType {
  readonly name: string;
  /** Consecutive elements of a row that are stored together. Of types with `wholeTensor`: what their number must divide by. */
  readonly blockSize: number;
  readonly blockBytes: number;
  /** Of types with `wholeTensor`: of a large matrix. */
  readonly bitsPerWeight: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Writing takes an importance vector into account. */
  readonly usesImportance: boolean;
  /** Scales or groups run across rows: matrices are written and read as a whole. */
  readonly wholeTensor: boolean;
}

/** Rows and columns of the matrix that stands for a large one. */
const LARGE = 4096;

/** Every storage type: block sizes, bits per weight, and whether `quantize` can write it. */
export const quantTypes: readonly QuantType[] = [
  ...formats.map(({ type, pack, usesImportance }) => ({
    name: type.name,
    blockSize: type.blockSize,
    blockBytes: type.blockBytes,
    bitsPerWeight: (type.blockBytes * 8) / type.blockSize,
    readable: true,
    writable: pack !== undefined,
    usesImportance: usesImportance ?? false,
    wholeTensor: false,
  })),
  ...tensorFormats.map((format) => ({
    name: format.name,
    blockSize: format.multiple,
    blockBytes: format.bytes(1, format.multiple),
    bitsPerWeight: (format.bytes(LARGE, LARGE) * 8) / LARGE ** 2,
    readable: true,
    writable: true,
    usesImportance: false,
    wholeTensor: true,
  })),
];

// `Q4K`, `q4_k` and `Q4_K` are the same type: names are compared in upper case and without separators.
const key = (name: string): string => name.toUpperCase().replace(/[_-]/g, '');

/** The name that other tools have for a type. */
const ALIASES: Readonly<Record<string, string>> = { FP8: 'F8E4M3' };

// `F8_E4M3`, an element type, differs from `F8E4M3`, a matrix with its scale, in the separator alone: the exact name wins.
const byExactName = new Map(formats.map((format) => [format.type.name.toUpperCase(), format]));
const byName = new Map(formats.map((format) => [key(format.type.name), format]));
const tensorsByName = new Map(tensorFormats.map((format) => [key(format.name), format]));

/** The format of matrices that are stored as a whole, if `name` is one. */
export function tensorFormat(name: string): TensorFormat | undefined {
  if (byExactName.has(name.toUpperCase())) return undefined;
  return tensorsByName.get(ALIASES[key(name)] ?? key(name));
}

/**
 * The format of a storage type, or of the type of that name; case and underscores of the name do not matter.
 * @throws UnsupportedError for an unknown name, and for one of a type that stores matrices as a whole.
 */
export function quantFormat(type: string | StorageType): QuantFormat {
  if (typeof type !== 'string') {
    return type.grouping ? groupedFormat({ ...type, grouping: type.grouping }) : quantFormat(type.name);
  }
  const format = byExactName.get(type.toUpperCase()) ?? (tensorFormat(type) ? undefined : byName.get(key(type)));
  if (format) return format;
  const names = quantTypes.map((f) => f.name).join(', ');
  throw new UnsupportedError(`quantization type: expected one of ${names}; got "${type}"`, { feature: type });
}
