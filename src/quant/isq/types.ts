/** Types that weights can be quantized to in place: names, numbers of bits, promotion, and what replaces a type that does not fit. */
import type { StorageTypeName } from '../../core/dtype.ts';
import { ConfigError } from '../../core/errors.ts';

interface Row {
  /** The block format, `HQQ` and `F8E4M3` apart, which rows of codes under group scales stand for. */
  readonly stored: StorageTypeName;
  /** Row lengths must divide by this. */
  readonly multiple: number;
  /** Takes its place where the row length does not divide. */
  readonly fallback?: string;
  /** What embeddings and output matrices get instead. */
  readonly promoted?: string;
}

const types = {
  Q4_0: { stored: 'Q4_0', multiple: 32, promoted: 'Q6K' },
  Q4_1: { stored: 'Q4_1', multiple: 32, promoted: 'Q6K' },
  Q5_0: { stored: 'Q5_0', multiple: 32, promoted: 'Q8_0' },
  Q5_1: { stored: 'Q5_1', multiple: 32, promoted: 'Q8_0' },
  Q8_0: { stored: 'Q8_0', multiple: 32 },
  Q8_1: { stored: 'Q8_1', multiple: 32, promoted: 'Q8_0' },
  Q2K: { stored: 'Q2_K', multiple: 256, fallback: 'Q4_0', promoted: 'Q6K' },
  Q3K: { stored: 'Q3_K', multiple: 256, fallback: 'Q4_0', promoted: 'Q6K' },
  Q4K: { stored: 'Q4_K', multiple: 256, fallback: 'Q4_1', promoted: 'Q6K' },
  Q5K: { stored: 'Q5_K', multiple: 256, fallback: 'Q5_0', promoted: 'Q8_0' },
  // The next smaller blocks of 32 would take a bit from it.
  Q6K: { stored: 'Q6_K', multiple: 256, fallback: 'Q8_0', promoted: 'Q8_0' },
  Q8K: { stored: 'Q8_K', multiple: 256, fallback: 'Q8_1', promoted: 'Q8_0' },
  IQ4_NL: { stored: 'IQ4_NL', multiple: 32, promoted: 'Q6K' },
  IQ4_XS: { stored: 'IQ4_XS', multiple: 256, fallback: 'IQ4_NL', promoted: 'Q6K' },
  HQQ4: { stored: 'GROUPED', multiple: 64 },
  HQQ8: { stored: 'GROUPED', multiple: 64 },
  AFQ2: { stored: 'AFQ2', multiple: 64, promoted: 'AFQ6' },
  AFQ3: { stored: 'AFQ3', multiple: 64, promoted: 'AFQ6' },
  AFQ4: { stored: 'AFQ4', multiple: 64, promoted: 'AFQ6' },
  AFQ6: { stored: 'AFQ6', multiple: 64, promoted: 'AFQ8' },
  AFQ8: { stored: 'AFQ8', multiple: 64 },
  F8E4M3: { stored: 'GROUPED', multiple: 1 },
  F8Q8: { stored: 'F8Q8', multiple: 32 },
  MXFP4: { stored: 'MXFP4', multiple: 32 },
} as const satisfies Readonly<Record<string, Row>>;

export type IsqType = keyof typeof types;
/** A number of bits per weight, for which a back-end's preferred type is taken. */
export type IsqBits = 2 | 3 | 4 | 5 | 6 | 8;

export const ISQ_TYPES = Object.keys(types) as readonly IsqType[];

/** What a number of bits means on the CPU and on WebGPU. */
const BY_BITS: Readonly<Record<IsqBits, IsqType>> = { 2: 'Q2K', 3: 'Q3K', 4: 'Q4K', 5: 'Q5K', 6: 'Q6K', 8: 'Q8_0' };
const BITS = Object.keys(BY_BITS).join(', ');

const key = (name: string): string => name.toUpperCase().replace(/[_-]/g, '');
const byKey: ReadonlyMap<string, IsqType> = new Map([
  ...ISQ_TYPES.map((name) => [key(name), name] as const),
  ['FP8', 'F8E4M3'] as const,
]);

/**
 * The type of a name (in any case, with or without `_`) or number of bits.
 * @throws ConfigError for anything else.
 */
export function parseIsq(type: unknown, what = 'isq'): IsqType {
  const bits = typeof type === 'string' && /^\d$/.test(type) ? Number(type) : type;
  if (typeof bits === 'number' && Object.hasOwn(BY_BITS, bits)) return BY_BITS[bits as IsqBits];
  const found = typeof type === 'string' ? byKey.get(key(type)) : undefined;
  if (found) return found;
  throw new ConfigError(
    `${what}: expected a type (${ISQ_TYPES.join(', ')}) or a number of bits (${BITS}), got ${JSON.stringify(type) ?? String(type)}`,
  );
}

/** What a number of bits means in files that are made for several machines; the preferred type stands first. */
const FAMILIES: Readonly<Record<IsqBits, readonly IsqType[]>> = {
  2: ['Q2K', 'AFQ2'],
  3: ['Q3K', 'AFQ3'],
  4: ['Q4K', 'AFQ4'],
  5: ['Q5K'],
  6: ['Q6K', 'AFQ6'],
  8: ['Q8_0', 'AFQ8'],
};

/** The types of a name, or all those of a number of bits. Throws as `parseIsq`. */
export function expandIsq(type: unknown, what = 'isq'): readonly IsqType[] {
  const parsed = parseIsq(type, what);
  return /^\d$/.test(String(type)) ? FAMILIES[Number(type) as IsqBits] : [parsed];
}

/** A type as file names and reports of UQFF have it. */
export function isqLabel(type: IsqType): string {
  return type === 'F8E4M3' ? 'fp8' : type.toLowerCase();
}

/** Labels that a user may mean by a name or number of bits; none where it is neither. */
export function isqLabels(name: string): readonly string[] {
  const known = byKey.has(key(name)) || (/^\d$/.test(name) && Object.hasOwn(BY_BITS, name));
  return known ? expandIsq(name).map(isqLabel) : [];
}

/** @throws ConfigError when it is no number of bits. */
export function parseBits(bits: unknown, what = 'autoIsq'): IsqType {
  if (typeof bits === 'number' && Object.hasOwn(BY_BITS, bits)) return BY_BITS[bits as IsqBits];
  throw new ConfigError(`${what}: expected a number of bits (${BITS}), got ${JSON.stringify(bits) ?? String(bits)}`);
}

/** The type of embeddings and output matrices, which lose more than others. */
export function promoted(type: IsqType): IsqType {
  return ((types[type] as Row).promoted as IsqType | undefined) ?? type;
}

/** The block format behind a type; `GROUPED` for those that have none. */
export function storedAs(type: IsqType): StorageTypeName {
  return types[type].stored;
}

/** The type for rows of `columns` columns; `undefined` when they stay as they are stored. */
export function fitting(type: IsqType, columns: number): IsqType | undefined {
  for (let t: IsqType | undefined = type; t; t = (types[t] as Row).fallback as IsqType | undefined) {
    if (columns % types[t].multiple === 0) return t;
  }
  return undefined;
}

/** What row lengths of a type must divide by. */
export function multipleOf(type: IsqType): number {
  return types[type].multiple;
}
