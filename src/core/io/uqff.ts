/** Reads UQFF files: safetensors files whose tensors describe quantized modules. Version 1.2. */
import { GGML_TYPES, rowBytes, type StorageType, type StorageTypeName, storageType } from '../dtype.ts';
import { FormatError, UnsupportedError } from '../errors.ts';
import { type Shape, sizeOf } from '../tensor.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { joinShards, type OpenShard } from './shards.ts';

/** What this version reads and writes; older minor versions are read too. */
export const UQFF_VERSION = { major: 1, minor: 2, patch: 0 } as const;
export type UqffVersion = { readonly [K in keyof typeof UQFF_VERSION]: number };
export const VERSION_PARTS = Object.keys(UQFF_VERSION) as readonly (keyof typeof UQFF_VERSION)[];
export const versionKey = (part: keyof typeof UQFF_VERSION): string => `uqff.version.${part}`;

export type UqffFormat = 'gguf' | 'unquant' | 'hqq' | 'fp8' | 'afq' | 'f8q8' | 'mxfp4';

/** One quantized matrix, or a stack of those of experts. Types and sizes of its tensors are checked. */
export interface UqffModule {
  /** Path in the model: `model.layers.0.mlp.up_proj`. */
  readonly name: string;
  readonly format: UqffFormat;
  /** `[…, out, in]` */
  readonly shape: Shape;
  /** By the rest of their names behind `name.weight.`; the matrix itself is `''`. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Single numbers among them: `bits`, `group_size`, … */
  readonly numbers: ReadonlyMap<string, number>;
}

/** The files of one set as one checkpoint; `tensors` are as they are stored. */
export interface UqffCheckpoint extends Checkpoint {
  readonly version: UqffVersion;
  readonly modules: ReadonlyMap<string, UqffModule>;
}

/** Modules whose numbers are read at once. */
const READ_AT_ONCE = 32;
/** Stacked matrices have three. */
const MAX_DIMS = 8;

/** What a tensor of a module is: one number, a list of sizes, or data. */
interface Entry {
  readonly kind: 'number' | 'sizes' | 'data';
  readonly types: readonly StorageTypeName[];
}
const byte: Entry = { kind: 'number', types: ['U8'] };
const word: Entry = { kind: 'number', types: ['U32'] };
const sizes: Entry = { kind: 'sizes', types: ['U32'] };
const data = (...types: StorageTypeName[]): Entry => ({ kind: 'data', types });
const floats = data('F32', 'F16', 'BF16');
const scale = floats;

/** The tensors of a module beside `format`, by format; the position of a format in this list is its number in files. */
const FORMATS: readonly { readonly format: UqffFormat; readonly entries: Readonly<Record<string, Entry>> }[] = [
  { format: 'gguf', entries: { '': data('U8'), dtype: word, shape: sizes } },
  { format: 'unquant', entries: { '': data('F32', 'F16', 'BF16', 'F64') } },
  {
    format: 'hqq',
    entries: {
      ...{ '': data('U8'), scales: floats, zeros: floats, shape: sizes },
      ...{ bits: byte, group_size: word, axis: byte },
      ...{ optimization_steps: word, round_zeros: byte, channel_wise: byte },
    },
  },
  {
    format: 'fp8',
    entries: {
      ...{ '': data('F8_E4M3'), dequant_w_scale: scale, dequant_x_scale: scale, quant_scale: scale },
      dtype: word,
    },
  },
  { format: 'afq', entries: { '': data('U32'), scales: floats, biases: floats, bits: byte, group_size: byte } },
  { format: 'f8q8', entries: { '': data('U8'), num_blocks: word, shape: sizes } },
  { format: 'mxfp4', entries: { '': data('U8'), scales: data('U8') } },
];

export const formatNumber = (format: UqffFormat): number => FORMATS.findIndex((f) => f.format === format);

/** Numbers of types of GGUF files that modules may have; IQ4_NL and IQ4_XS (20, 23) are no part of the published format. */
const GGUF_NUMBERS: ReadonlySet<number> = new Set([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20, 23, 30]);

/** Whether a module can hold blocks of a type as GGUF files have them. */
export function isUqffBlock(type: StorageType): boolean {
  return type.ggml !== undefined && GGUF_NUMBERS.has(type.ggml);
}

/**
 * Opens the files of one set, by name. Headers, versions and small numbers are read; every module is checked.
 * @throws FormatError for files that break their format, UnsupportedError for other versions and formats, ModelLoadError for
 * missing files.
 */
export async function openUqff(names: readonly string[], open: OpenShard): Promise<UqffCheckpoint> {
  const keys = new Set(VERSION_PARTS.map(versionKey));
  const joined = await joinShards(names, open, keys);
  try {
    const { tensors, metadata, repeated, close } = joined;
    const where = names[0] ?? 'UQFF';
    const version = await readVersion(tensors, repeated, where);
    const groups = grouped(tensors);
    const modules = new Map<string, UqffModule>();
    const all = [...groups];
    for (let i = 0; i < all.length; i += READ_AT_ONCE) {
      const read = all.slice(i, i + READ_AT_ONCE).map(([name, group]) => readModule(name, group));
      for (const module of await Promise.all(read)) modules.set(module.name, module);
    }
    if (modules.size === 0) throw new FormatError(`${where}: expected quantized modules, got none`);
    return { tensors, metadata, version, modules, close };
  } catch (error) {
    await joined.close();
    throw error;
  }
}

async function readVersion(
  tensors: ReadonlyMap<string, TensorInfo>,
  repeated: readonly TensorInfo[],
  where: string,
): Promise<UqffVersion> {
  const parts: Record<string, number> = {};
  for (const part of VERSION_PARTS) {
    const key = versionKey(part);
    const found = tensors.get(key);
    if (!found) {
      throw new UnsupportedError(
        `${where}: expected the tensor ${key}, got none: the file is older than UQFF 1.0; quantize the model again`,
        { feature: 'UQFF before 1.0' },
      );
    }
    const values = await Promise.all([found, ...repeated.filter((t) => t.name === key)].map(numberOf));
    if (values.some((v) => v !== values[0])) {
      throw new FormatError(`${where}: ${key}: expected one version in all files, got ${values.join(' and ')}`);
    }
    parts[part] = values[0] as number;
  }
  const version = parts as unknown as UqffVersion;
  const { major, minor } = UQFF_VERSION;
  if (version.major !== major || version.minor > minor) {
    const shown = VERSION_PARTS.map((part) => version[part]).join('.');
    const advice = version.major < major ? 'quantize the model again' : 'take a newer version of this program';
    throw new UnsupportedError(`${where}: expected UQFF ${major}.0 to ${major}.${minor}, got ${shown}; ${advice}`, {
      feature: `UQFF ${shown}`,
    });
  }
  return version;
}

type Group = ReadonlyMap<string, TensorInfo>;

/** Tensors `P.weight` and `P.weight.x` by `P` and `x`. */
function grouped(tensors: ReadonlyMap<string, TensorInfo>): ReadonlyMap<string, Group> {
  const groups = new Map<string, Map<string, TensorInfo>>();
  for (const [name, info] of tensors) {
    const inner = name.indexOf('.weight.');
    const at = inner < 0 && name.endsWith('.weight') ? name.length - '.weight'.length : inner;
    if (at <= 0) continue;
    const module = name.slice(0, at);
    const group = groups.get(module) ?? new Map<string, TensorInfo>();
    groups.set(module, group.set(name.slice(at + '.weight.'.length), info));
  }
  return groups;
}

async function readModule(name: string, group: Group): Promise<UqffModule> {
  const tag = group.get('format');
  if (!tag) throw new FormatError(`module "${name}": expected the tensor "${name}.weight.format", got none`);
  checkEntry(tag, byte);
  const number = await numberOf(tag);
  const found = FORMATS[number];
  if (!found) {
    throw new UnsupportedError(`module "${name}": expected a format from 0 to ${FORMATS.length - 1}, got ${number}`, {
      feature: `UQFF format ${number}`,
    });
  }
  const { format, entries } = found;
  const wanted = ['format', ...Object.keys(entries)];
  if (group.size !== wanted.length || wanted.some((key) => !group.has(key))) {
    const list = (keys: Iterable<string>) => [...keys].map((key) => `weight${key && `.${key}`}`).join(', ');
    throw new FormatError(`module "${name}": ${format} expects ${list(wanted)}, got ${list(group.keys())}`);
  }
  const numbers = new Map<string, number>();
  for (const [key, entry] of Object.entries(entries)) {
    const info = group.get(key) as TensorInfo;
    checkEntry(info, entry);
    if (entry.kind === 'number') numbers.set(key, await numberOf(info));
  }
  const stated = group.get('shape');
  const module = { name, format, tensors: group, numbers };
  return { ...module, shape: SHAPES[format](module, stated ? await sizesOf(stated) : []) };
}

function checkEntry({ name, type, shape }: TensorInfo, { kind, types }: Entry): void {
  const rank = kind === 'number' ? shape.length === 0 : kind === 'sizes' ? shape.length === 1 : true;
  if (types.includes(type.name) && rank) return;
  const what = { number: 'one number', sizes: 'a list of sizes', data: 'data' }[kind];
  throw new FormatError(
    `tensor "${name}": expected ${what} of type ${types.join(' or ')}, got ${type.name} [${shape}]; the file is damaged`,
  );
}

async function numberOf(info: TensorInfo): Promise<number> {
  const { name, type, shape, offset, bytes, source } = info;
  const size = type.name === 'U8' ? 1 : 4;
  if ((type.name !== 'U8' && type.name !== 'U32') || shape.length > 0 || bytes !== size) {
    throw new FormatError(`tensor "${name}": expected one U8 or U32 number, got ${type.name} [${shape}]`);
  }
  const data = await source.slice(offset, offset + size);
  return size === 1 ? data[0]! : new DataView(data.buffer, data.byteOffset, 4).getUint32(0, true);
}

async function sizesOf({ name, shape, offset, bytes, source }: TensorInfo): Promise<Shape> {
  const count = shape[0] ?? 0;
  if (count < 1 || count > MAX_DIMS) {
    throw new FormatError(`tensor "${name}": expected 1 to ${MAX_DIMS} sizes, got ${count}`);
  }
  const data = await source.slice(offset, offset + bytes);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const sizes = Array.from({ length: count }, (_, i) => view.getUint32(4 * i, true));
  if (sizes.some((n) => n === 0) || !Number.isSafeInteger(sizeOf(sizes))) {
    throw new FormatError(`tensor "${name}": expected positive sizes, got [${sizes}]`);
  }
  return sizes;
}

type Unshaped = Omit<UqffModule, 'shape'>;

/** The shape of a module by what it stores and states; throws `FormatError` where the two disagree. */
const SHAPES: Readonly<Record<UqffFormat, (m: Unshaped, stated: Shape) => Shape>> = {
  gguf(m, stated) {
    const type = ggufTypeOf(m);
    const columns = stated.at(-1) as number;
    demand(m, 'bytes', (rowBytes(type, columns) ?? Number.NaN) * (sizeOf(stated) / columns), part(m).bytes, stated);
    return stated;
  },
  unquant: (m) => matrixShape(m, part(m).shape),
  hqq(m, stated) {
    const [bits, group, axis] = ['bits', 'group_size', 'axis'].map((key) => m.numbers.get(key) as number);
    if (![1, 2, 4, 8].includes(bits as number) || (axis as number) > 1) {
      throw new UnsupportedError(
        `module "${m.name}": expected HQQ of 1, 2, 4 or 8 bits along axis 0 or 1, got ${bits}, ${axis}`,
        {
          feature: `HQQ of ${bits} bits`,
        },
      );
    }
    const elements = sizeOf(stated);
    for (const key of ['scales', 'zeros'])
      demand(m, key, elements / (group as number), sizeOf(part(m, key).shape), stated);
    demand(m, 'bytes', (elements * (bits as number)) / 8, part(m).bytes, stated);
    return matrixShape(m, stated);
  },
  fp8(m) {
    for (const key of ['dequant_w_scale', 'dequant_x_scale', 'quant_scale'])
      demand(m, key, 1, sizeOf(part(m, key).shape));
    return matrixShape(m, part(m).shape);
  },
  afq(m) {
    const [bits, group] = ['bits', 'group_size'].map((key) => m.numbers.get(key) as number) as [number, number];
    if (![2, 3, 4, 6, 8].includes(bits) || ![32, 64, 128].includes(group)) {
      throw new UnsupportedError(
        `module "${m.name}": expected AFQ of 2, 3, 4, 6 or 8 bits and groups of 32, 64 or 128, got ${bits} and ${group}`,
        { feature: `AFQ of ${bits} bits in groups of ${group}` },
      );
    }
    const { shape } = part(m);
    const columns = ((shape.at(-1) ?? 0) * 32) / bits;
    const groups = [...shape.slice(0, -1), columns / group];
    for (const key of ['scales', 'biases']) sameShape(m, key, groups);
    return matrixShape(m, [...shape.slice(0, -1), columns]);
  },
  f8q8(m, stated) {
    const type = storageType('F8Q8');
    demand(m, 'num_blocks', sizeOf(stated) / type.blockSize, m.numbers.get('num_blocks') as number, stated);
    demand(m, 'columns over a block', 0, (stated.at(-1) as number) % type.blockSize, stated);
    demand(m, 'bytes', (m.numbers.get('num_blocks') as number) * type.blockBytes, part(m).bytes, stated);
    return stated;
  },
  mxfp4(m) {
    const { shape } = part(m);
    const columns = 2 * (shape.at(-1) ?? 0);
    sameShape(m, 'scales', [...shape.slice(0, -1), columns / storageType('MXFP4').blockSize]);
    return matrixShape(m, [...shape.slice(0, -1), columns]);
  },
};

const part = (m: Unshaped, key = ''): TensorInfo => m.tensors.get(key) as TensorInfo;

/** The type of the blocks of a `gguf` module. */
export function ggufTypeOf(m: Unshaped): StorageType {
  const number = m.numbers.get('dtype') as number;
  const type = GGUF_NUMBERS.has(number) ? GGML_TYPES.get(number) : undefined;
  if (type) return type;
  throw new UnsupportedError(
    `tensor "${m.name}.weight.dtype": expected one of ${[...GGUF_NUMBERS].join(', ')}, got ${number}`,
    { feature: `type ${number} in UQFF` },
  );
}

function matrixShape(m: Unshaped, shape: Shape): Shape {
  if (shape.length >= 2 && shape.every((n) => n > 0)) return shape;
  throw new FormatError(`module "${m.name}": expected a matrix [out, in], got ${m.format} of shape [${shape}]`);
}

function sameShape(m: Unshaped, key: string, expected: Shape): void {
  const { shape } = part(m, key);
  if (shape.length === expected.length && shape.every((n, i) => n === expected[i])) return;
  throw new FormatError(
    `tensor "${m.name}.weight.${key}": expected [${expected}] beside ${m.format} [${part(m).shape}], got [${shape}]`,
  );
}

function demand(m: Unshaped, what: string, expected: number, got: number, shape: Shape = part(m).shape): void {
  if (expected === got) return;
  throw new FormatError(
    `module "${m.name}": ${what}: expected ${expected} for ${m.format} [${shape}], got ${got}; the file is damaged`,
  );
}
