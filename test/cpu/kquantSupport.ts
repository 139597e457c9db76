import type { Variant } from '../../src/backends/cpu/kernel.ts';
import { familyOf } from '../../src/backends/cpu/linear/families.ts';
import { type Family, kernelsOf } from '../../src/backends/cpu/linear/family.ts';
import { ACTIVATION_SCALE, GROUP, groupsOf, TILE } from '../../src/backends/cpu/linear/layout.ts';
import type { RawSection } from '../../src/core/backend.ts';
import { f32ToF16, rowBytes, type StorageType, type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import { groupedRow } from '../../src/core/grouped.ts';
import { quantFormat } from '../../src/quant/index.ts';
import { type Bench, bench, bits, DATA, random } from './support.ts';

/** `largest`: all bits set; `lowest`: none. Both with scales of one, or as large as they can be. */
export type Fill = 'random' | 'largest' | 'lowest' | 'integers' | 'zero';

/** Floats in front of a block: scales, and biases. */
function floatsInFront({ name, grouping, blockSize }: StorageType): number {
  if (grouping) return groupedRow(grouping, blockSize).codes / 4;
  return name.startsWith('AFQ') ? 2 : ['Q8_K', 'NF4', 'FP4'].includes(name) ? 1 : 0;
}

/** Sets the scales of a block of random or full bytes to numbers that a checkpoint could hold. */
function setScales(type: StorageType, view: DataView, at: number, next: () => number, fill: Fill): void {
  const { name } = type;
  const scale = () => (fill === 'random' ? (next() - 0.3) * 2 ** (next() * 18 - 16) : 1);
  for (let i = 0; i < floatsInFront(type); i++) view.setFloat32(at + 4 * i, scale(), true);
  const { halves } = quantFormat(type);
  for (const i of halves ?? []) view.setUint16(at + i, f32ToF16(scale()), true);
  if (name === 'MXFP4') view.setUint8(at, fill === 'random' ? 112 + next() * 16 : 128);
  if (name === 'NVFP4') for (let i = 0; i < 4; i++) view.setUint8(at + i, fill === 'random' ? next() * 127 : 126);
  if (name === 'F8Q8') view.setUint8(at, fill === 'random' ? next() * 127 : 126);
  if (name === 'Q6_K' && fill !== 'random') {
    for (let i = 0; i < 16; i++) view.setInt8(at + 192 + i, fill === 'largest' ? 127 : -128);
  }
  if (name === 'IQ1_M') {
    const bits = f32ToF16(scale());
    for (let i = 0; i < 4; i++) {
      const word = view.getUint16(at + 48 + 2 * i, true);
      view.setUint16(at + 48 + 2 * i, (word & 0x0fff) | (((bits >> (4 * i)) & 15) << 12), true);
    }
  }
}

/** Rows of a checkpoint. */
export function storedRows(
  of: StorageTypeName | StorageType,
  rows: number,
  columns: number,
  fill: Fill,
  seed: number,
): Uint8Array {
  const type = typeof of === 'string' ? storageType(of) : of;
  const bytes = new Uint8Array(rows * rowBytes(type, columns)!);
  if (fill === 'zero') return bytes;
  const next = random(seed);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += type.blockBytes) {
    for (let i = 0; i < type.blockBytes; i++)
      bytes[at + i] = fill === 'largest' ? 255 : fill === 'lowest' ? 0 : next() * 256;
    setScales(type, view, at, next, fill);
  }
  return bytes;
}

export function activations(rows: number, columns: number, fill: Fill, seed: number): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length: rows * columns }, (_, i) => {
    if (fill === 'zero') return 0;
    if (fill === 'integers') return i % 32 ? Math.floor(next() * 255) - 127 : 127;
    if (fill === 'largest') return 127 * (seed % 3 === 0 ? 1 : i & 1 ? 1 : -1);
    return (next() - 0.5) * (i % 7 === 0 ? 20 : 1) * (Math.floor(i / 64) % 5 === 4 ? 0 : 1);
  });
}

export interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly tokens: number;
  readonly weights?: Fill;
  readonly inputs?: Fill;
  readonly seed?: number;
}

/** A memory holding repacked weights and prepared activations of one storage type. */
export interface Setup extends Shape {
  readonly b: Bench;
  readonly family: Family;
  /** The matrix as stored in a checkpoint. */
  readonly stored: Uint8Array;
  /** Bytes that the repacking kernel reads per row. */
  readonly sourceBytes: number;
  readonly at: Record<'source' | 'w' | 'x' | 'q' | 'd' | 's' | 'y' | 'bias', number>;
}

const MEMORY_BYTES = 1 << 20;

/** Makes setups of one storage type; those of the same variant share compiled kernels and one memory. */
export function setupsOf(type: StorageType) {
  const machines = new Map<Variant, { readonly family: Family; readonly b: Bench }>();
  return (variant: Variant, shape: Shape): Promise<Setup> => {
    let machine = machines.get(variant);
    if (!machine) {
      const family = familyOf(type)![1](variant);
      machine = { family, b: bench([...kernelsOf(family), family.activation.kernel], variant, MEMORY_BYTES) };
      machines.set(variant, machine);
    }
    return setup(type, machine.family, machine.b, shape);
  };
}

async function setup(type: StorageType, family: Family, b: Bench, shape: Shape): Promise<Setup> {
  const { rows, columns, tokens, seed = 1 } = shape;
  const stored = storedRows(type, rows, columns, shape.weights ?? 'random', seed);
  const raw: RawSection = {
    type,
    rows,
    async readRows(first, count, target) {
      const bytes = rowBytes(type, columns)!;
      target.set(stored.subarray(first * bytes, (first + count) * bytes));
    },
  };
  const section = family.rewrite?.(raw, columns) ?? raw;
  const sourceBytes = rowBytes(section.type, columns)!;
  let next = DATA;
  const place = (bytes: number) => {
    const at = next;
    next = Math.ceil((next + bytes) / 64) * 64;
    return at;
  };
  const { activation } = family;
  const padded = groupsOf(rows) * GROUP;
  const at = {
    source: place(padded * sourceBytes + 1) + 1,
    w: place(groupsOf(rows) * family.groupBytes(columns)),
    x: place(tokens * columns * 4),
    q: place(tokens * columns * 4),
    d: place(tokens * activation.scaleBytes(columns)),
    s: place(tokens * activation.sumBytes(columns)),
    y: place(tokens * (rows + 3) * 4),
    bias: place(padded * 4),
  };
  await section.readRows(0, rows, b.views.u8.subarray(at.source, at.source + rows * sourceBytes));
  b.views.f32.set(activations(tokens, columns, shape.inputs ?? 'random', seed + 1), at.x / 4);
  const noise = random(seed + 2);
  for (let i = 0; i < padded; i++) b.views.f32[at.bias / 4 + i] = noise() - 0.5;
  b.wasm(family.repack, { source: at.source, target: at.w, groups: padded / GROUP, columns });
  b.wasm(activation.kernel, { x: at.x, q: at.q, d: at.d, s: at.s, rows: tokens, columns, copyStride: 0 });
  return { ...shape, b, family, stored, sourceBytes, at };
}

export interface MultiplyOptions {
  readonly bias?: boolean;
  readonly accumulate?: boolean;
  readonly nt?: number;
}

/** All results, `rows + 3` numbers per token, computed by the tile kernels as the back-end calls them. */
export function multiply(s: Setup, how: 'wasm' | 'twin', options: MultiplyOptions = {}): Uint32Array {
  const { b, at, rows, columns, tokens } = s;
  const { activation, tiles } = s.family;
  const yStride = (rows + 3) * 4;
  b.views.f32.fill(0.25, at.y / 4, at.y / 4 + tokens * (rows + 3));
  const full = Math.floor(tokens / TILE);
  const run = (first: number, n: number, count: number) => {
    if (!count) return;
    const args = {
      ...{ w: at.w, rows, columns, copyStride: 0, tiles: count, yStride },
      x: at.q + first * activation.codeBytes(columns),
      d: at.d + first * activation.scaleBytes(columns),
      s: at.s + first * activation.sumBytes(columns),
      y: at.y + first * yStride,
      bias: options.bias ? at.bias : 0,
      accumulate: options.accumulate ? 1 : 0,
      ...{ chunk: 0, counter: 0 },
    };
    b[how](tiles[n - 1]!, args, options.nt ?? 1);
  };
  run(0, TILE, full);
  run(full * TILE, tokens % TILE, tokens % TILE ? 1 : 0);
  return bits(b.views, at.y, tokens * (rows + 3));
}

/** What SIMD128 kernels multiply with: the inputs as rounded, `[token, column]`. */
export function roundedInputs(s: Setup): Float64Array {
  const { b, at, columns, tokens } = s;
  const perBlock = s.family.activation.name === 'k16' ? 256 : 32;
  const blocks = columns / perBlock;
  const out = new Float64Array(tokens * columns);
  for (let t = 0; t < tokens; t++) {
    const first = t - (t % TILE);
    const n = Math.min(TILE, tokens - first);
    for (let k = 0; k < columns; k++) {
      const block = Math.floor(k / perBlock);
      const inBlock = k % perBlock;
      const step = perBlock === 256 ? inBlock >> 2 : 2 * ((k & 15) >> 2) + (inBlock >> 4);
      const word = first * columns * 0.5 + ((block * perBlock) / 2) * n + (step * 2 + (k & 1)) * n + (t - first);
      const code = b.views.i16[at.q / 2 + word * 2 + ((k & 2) >> 1)]!;
      const scale = b.views.f32[at.d / 4 + first * blocks + block * n + (t - first)]!;
      out[t * columns + k] = code * (perBlock === 256 ? scale : scale / ACTIVATION_SCALE);
    }
  }
  return out;
}

export const floats = (words: Uint32Array): Float32Array => new Float32Array(words.buffer);
