/** Tensors of Hugging Face checkpoints in the shapes and orders that GGUF files have: stacked, cut, transposed, reordered. */
import { storageType } from '../dtype.ts';
import { UnsupportedError } from '../errors.ts';
import { sizeOf } from '../tensor.ts';
import type { Codec, SourceTensor, WeightSource } from '../weights.ts';
import { expandedTensor, readValues, storedRowBytes } from '../weights.ts';
import { rowRuns, transposed } from '../weightViews.ts';
import { mxfp4Rows } from './mxfp4.ts';

type Tensors = Map<string, SourceTensor>;
type Runs = readonly (readonly [first: number, count: number])[];

/** Sizes that the order of rows depends on, where an architecture has such. */
export interface LayoutSizes {
  readonly heads: number;
  readonly headDim: number;
  /** Of latent attention: entries of keys that do not rotate, of values, of the latent. */
  readonly latent?: { readonly nope: number; readonly value: number; readonly rank: number } | undefined;
  /** Fused experts are stored `[expert, in, out]`, gates and others in turn. */
  readonly turnedExperts?: boolean | undefined;
  /** Of gated delta networks whose value heads are stored by turns. */
  readonly turns?: { readonly keyHeads: number; readonly valueHeads: number; readonly keyDim: number } | undefined;
}

const EXPERT = /^(.*)\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$/;
/** Norms of single heads. */
const HEAD_NORM = /^(.*_layernorm)\.norms\.(\d+)\.(weight)$/;
const KINDS: Readonly<Record<string, string>> = { w1: 'gate_proj', w3: 'up_proj', w2: 'down_proj' };

/** Under the names that `ggufNames` knows, as the reader of GGUF files would give them. */
export function ggufLayout(source: WeightSource, names: Iterable<string>, sizes: LayoutSizes, codec: Codec): Tensors {
  const out: Tensors = new Map();
  const stacks = new Map<string, SourceTensor[]>();
  for (const name of names) {
    const t = source.get(name) as SourceTensor;
    const [, path, index, kind = ''] = (name.includes('experts.') ? EXPERT : HEAD_NORM).exec(name) ?? [];
    if (index === undefined) {
      for (const made of layoutOf(source, t, sizes, codec)) out.set(made.name, made);
      continue;
    }
    const key = kind === 'weight' ? `${path}.weight` : `${path}.${KINDS[kind] ?? kind}.weight`;
    const stack = stacks.get(key) ?? [];
    stack[Number(index)] = t;
    stacks.set(key, stack);
  }
  for (const [name, parts] of stacks) out.set(name, stacked(name, parts));
  return out;
}

/** What one tensor becomes: mostly itself. */
function layoutOf(source: WeightSource, t: SourceTensor, s: LayoutSizes, codec: Codec): readonly SourceTensor[] {
  const { name, shape } = t;
  const at = name.slice(0, name.lastIndexOf('.', name.lastIndexOf('.') - 1) + 1);
  const renamed = (to: string, from = t) => [{ ...from, name: to }];
  const [rows = 1, width = 1] = shape;
  if (/\.conv(1d)?\.weight$/.test(name) && shape.length === 3) return reordered({ ...t, shape: [rows, shape[2]!] }, s);
  if (name.endsWith('.experts.gate_up_proj_blocks')) {
    return pair(name.replace('gate_up_proj_blocks', ''), packed(source, name), rows, true);
  }
  if (name.endsWith('.experts.down_proj_blocks')) {
    return renamed(name.replace('_blocks', '.weight'), deep(packed(source, name), rows));
  }
  if (/_scales$/.test(name) && source.get(name.replace(/_scales$/, '_blocks'))) return [];
  if (name.endsWith('.mlp.experts.gate_up_proj')) {
    const columns = shape[2] as number;
    const flat = s.turnedExperts ? transposed(t, rows, width, columns) : { ...t, shape: [rows * width, columns] };
    return pair(name.replace('gate_up_proj', ''), flat, rows, s.turnedExperts === true);
  }
  if (name.endsWith('.mlp.experts.down_proj')) {
    const columns = shape[2] as number;
    return renamed(`${name}.weight`, s.turnedExperts ? deep(transposed(t, rows, width, columns), rows) : t);
  }
  if (name.endsWith('.experts.gate_up_proj_bias')) {
    return [0, 1].map((half) =>
      vectors(
        t,
        name.replace('gate_up_proj_bias', `${half ? 'up' : 'gate'}_proj.bias`),
        codec,
        rows,
        everySecond(width, half),
      ),
    );
  }
  if (name.endsWith('.experts.down_proj_bias')) return renamed(name.replace('_bias', '.bias'));
  if (name.endsWith('.block_sparse_moe.input_linear.weight')) {
    const flat = { ...t, shape: [rows * width, shape[2] as number] };
    return pair(name.replace('input_linear.weight', ''), flat, rows, false);
  }
  if (name.endsWith('.block_sparse_moe.output_linear.weight'))
    return renamed(name.replace('output_linear', 'down_proj'));
  if (name.endsWith('.shared_mlp.input_linear.weight')) {
    return pair(name.replace('input_linear.weight', ''), t, 1, false);
  }
  if (/\.(c_attn|c_proj|c_fc)\.(weight|bias)$/.test(name) && /(^|\.)h\.\d+\./.test(name)) {
    const to = name.replace(/\.(weight|bias)$/, '_rows.$1');
    return renamed(to, shape.length === 2 ? transposed(t, 1, rows, width) : t);
  }
  if (/\.attention\.query_key_value\.(weight|bias)$/.test(name)) {
    const runs = [0, 1, 2].flatMap((part) =>
      Array.from({ length: s.heads }, (_, head) => [(3 * head + part) * s.headDim, s.headDim] as const),
    );
    const to = name.replace('query_key_value', 'qkv_proj');
    return [shape.length === 2 ? rowRuns(t, runs, width, to) : vectors(t, to, codec, 1, indices(runs))];
  }
  if (s.latent && name.endsWith('.kv_b_proj.weight')) return latent(t, at, s.heads, s.latent, codec);
  return reordered(t, s, codec);
}

/** Gate and up matrices out of one: above one another for each of `count`, or row by row in turn. */
function pair(at: string, t: SourceTensor, count: number, turns: boolean): readonly SourceTensor[] {
  const [rows = 0, width = 1] = t.shape;
  const half = rows / count / 2;
  return [0, 1].map((which) => {
    const name = `${at}${which ? 'up' : 'gate'}_proj.weight`;
    if (turns) return deep(alternate(t, which, name), count);
    const runs = Array.from({ length: count }, (_, i) => [(2 * i + which) * half, half] as const);
    return deep(rowRuns(t, runs, width, name), count);
  });
}

/** `[count * rows, width]` as `[count, rows, width]`; one matrix stays one. */
function deep(t: SourceTensor, count: number): SourceTensor {
  const [rows = 0, width = 1] = t.shape;
  return count === 1 ? t : { ...t, shape: [count, rows / count, width] };
}

/** Every second row, from row `first` on. */
function alternate(t: SourceTensor, first: number, name: string): SourceTensor {
  const [rows = 0, width = 1] = t.shape;
  const stride = storedRowBytes(t);
  return {
    ...t,
    name,
    shape: [rows / 2, width],
    async readRows(from, n, target) {
      const both = new Uint8Array(2 * n * stride);
      await t.readRows(2 * from, 2 * n, both);
      for (let r = 0; r < n; r++) {
        const start = (2 * r + first) * stride;
        target.set(both.subarray(start, start + stride), r * stride);
      }
    },
  };
}

function packed(source: WeightSource, name: string): SourceTensor {
  const blocks = source.get(name) as SourceTensor;
  const scales = source.get(name.replace(/_blocks$/, '_scales'));
  const [experts = 0, rows = 0, perRow = 0] = blocks.shape;
  if (!scales) throw refused(name, 'scales beside it', 'none');
  return mxfp4Rows(blocks, scales, [experts * rows, 32 * perRow]);
}

/** Matrices of one shape and type below one another. */
function stacked(name: string, parts: readonly SourceTensor[]): SourceTensor {
  const first = parts[0];
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i];
    if (!first || !part || part.type.name !== first.type.name || String(part.shape) !== String(first.shape)) {
      throw refused(name, `experts of one shape and type`, `another or no expert ${i}`);
    }
  }
  const { shape } = first as SourceTensor;
  const width = shape[shape.length - 1] ?? 1;
  const rows = sizeOf(shape) / width;
  return {
    ...(first as SourceTensor),
    name,
    shape: [parts.length, ...shape],
    async readRows(from, n, target) {
      const stride = target.length / n;
      for (let at = from; at < from + n; ) {
        const inside = at % rows;
        const some = Math.min(rows - inside, from + n - at);
        const to = (at - from) * stride;
        await parts[Math.floor(at / rows)]!.readRows(inside, some, target.subarray(to, to + some * stride));
        at += some;
      }
    },
  };
}

/** Keys turned around and values, for each head, out of what both are made by. */
function latent(
  t: SourceTensor,
  at: string,
  heads: number,
  { nope, value, rank }: NonNullable<LayoutSizes['latent']>,
  codec: Codec,
): readonly SourceTensor[] {
  const movable = t.type.blockSize === 1 ? t : expandedTensor(t, codec);
  const each = (first: number, count: number) =>
    Array.from({ length: heads }, (_, h) => [h * (nope + value) + first, count] as const);
  const keys = rowRuns(movable, each(0, nope), rank, `${at}k_b_proj.weight`);
  const values = rowRuns(t, each(nope, value), rank, `${at}v_b_proj.weight`);
  return [
    { ...transposed(keys, heads, nope, rank), shape: [heads, rank, nope] },
    { ...values, shape: [heads, value, rank] },
  ];
}

/** Value heads of delta networks in turn over the key heads, in every tensor that has them. */
function reordered(t: SourceTensor, { turns }: LayoutSizes, codec?: Codec): readonly SourceTensor[] {
  if (!turns || turns.keyHeads === turns.valueHeads || !t.name.includes('.linear_attn.')) return [t];
  const { keyHeads, valueHeads, keyDim } = turns;
  const part = /linear_attn\.(.*)$/.exec(t.name)?.[1] ?? '';
  const [rows = 1, width = 1] = t.shape;
  const order = Array.from(
    { length: valueHeads },
    (_, j) => (j % keyHeads) * (valueHeads / keyHeads) + Math.floor(j / keyHeads),
  );
  const fixed = /qkv|conv1d/.test(part) ? 2 * keyHeads * keyDim : 0;
  const runs = (total: number): Runs => {
    const size = (total - fixed) / valueHeads;
    const head: Runs = fixed ? [[0, fixed]] : [];
    return [...head, ...order.map((h) => [fixed + h * size, size] as const)];
  };
  if (/^(A_log|dt_bias)$/.test(part)) return codec ? [vectors(t, t.name, codec, 1, indices(runs(rows)))] : [t];
  if (/^(in_proj_(qkv|z|a|b)|conv1d)\.weight$/.test(part)) return [rowRuns(t, runs(rows), width, t.name)];
  return part === 'out_proj.weight' && codec ? [columns(t, indices(runs(width)), codec)] : [t];
}

function indices(runs: Runs): Int32Array {
  return Int32Array.from(runs.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i)));
}

function everySecond(width: number, first: number): Int32Array {
  return Int32Array.from({ length: width / 2 }, (_, i) => 2 * i + first);
}

/** Chosen elements of each of `count` vectors, as F32. */
function vectors(t: SourceTensor, name: string, codec: Codec, count: number, from: Int32Array): SourceTensor {
  return {
    ...t,
    name,
    type: storageType('F32'),
    shape: count === 1 ? [from.length] : [count, from.length],
    async readRows(first, n, target) {
      const values = await readValues(t, codec);
      const width = values.length / count;
      const chosen = Float32Array.from({ length: n * from.length }, (_, i) => {
        const row = first + Math.floor(i / from.length);
        return values[row * width + from[i % from.length]!]!;
      });
      target.set(new Uint8Array(chosen.buffer));
    },
  };
}

/** Columns in another order, as F32 where the format has blocks. */
function columns(t: SourceTensor, from: Int32Array, codec: Codec): SourceTensor {
  const plain = t.type.blockSize === 1 ? t : expandedTensor(t, codec);
  const size = plain.type.blockBytes;
  return {
    ...plain,
    async readRows(first, n, target) {
      const bytes = new Uint8Array(n * from.length * size);
      await plain.readRows(first, n, bytes);
      for (let r = 0; r < n; r++) {
        const row = r * from.length;
        for (let c = 0; c < from.length; c++) {
          const at = (row + from[c]!) * size;
          target.set(bytes.subarray(at, at + size), (row + c) * size);
        }
      }
    },
  };
}

/** A tensor as F32, with its values changed where `change` is given. */
export function floats(t: SourceTensor, codec: Codec, change?: (values: Float32Array) => void): SourceTensor {
  const plain = t.type.name === 'F32' ? t : expandedTensor(t, codec);
  if (!change) return plain;
  const width = t.shape[t.shape.length - 1] ?? 1;
  return {
    ...plain,
    async readRows(first, n, target) {
      const values = new Float32Array(n * width);
      await plain.readRows(first, n, new Uint8Array(values.buffer));
      change(values);
      target.set(new Uint8Array(values.buffer));
    },
  };
}

/** An F32 vector in rows. */
export function inRows(t: SourceTensor, rows: number): SourceTensor {
  const width = sizeOf(t.shape) / rows;
  return {
    ...t,
    shape: [rows, width],
    async readRows(first, n, target) {
      const all = new Uint8Array(4 * rows * width);
      await t.readRows(0, 1, all);
      target.set(all.subarray(4 * first * width, 4 * (first + n) * width));
    },
  };
}

/** A tensor out of values at hand. */
export function floatTensor(name: string, values: Float32Array, order: number): SourceTensor {
  return {
    ...{ name, type: storageType('F32'), shape: [values.length], order },
    readRows: async (_first, _rows, target) =>
      target.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)),
  };
}

/** Rows of each head so that neighbours rotate together: row `2j + h` is row `j` of half `h`. */
export function pairRows(t: SourceTensor, heads: number, headDim: number, codec: Codec): SourceTensor {
  const total = t.shape[0] as number;
  if (total !== heads * headDim || headDim % 2 !== 0) {
    throw refused(t.name, `${heads} heads of an even size ${headDim}`, `[${t.shape}]`);
  }
  const from = (row: number) => {
    const j = row % headDim;
    return row - j + (j % 2) * (headDim / 2) + Math.floor(j / 2);
  };
  if (t.shape.length === 1)
    return vectors(
      t,
      t.name,
      codec,
      1,
      Int32Array.from({ length: sizeOf(t.shape) }, (_, r) => from(r)),
    );
  const stride = storedRowBytes(t);
  return {
    ...t,
    async readRows(first, rows, target) {
      const head = new Uint8Array(headDim * stride);
      for (let at = first; at < first + rows; ) {
        const start = at - (at % headDim);
        await t.readRows(start, headDim, head);
        for (; at < Math.min(first + rows, start + headDim); at++) {
          const row = from(at) - start;
          target.set(head.subarray(row * stride, (row + 1) * stride), (at - first) * stride);
        }
      }
    },
  };
}

function refused(name: string, expected: string, got: string): UnsupportedError {
  return new UnsupportedError(`tensor "${name}": expected ${expected}, got ${got}`, {
    feature: 'layout in GGUF files',
  });
}
