import { setFlagsFromString } from 'node:v8';
import { describe, expect, it } from 'vitest';
import type { Kernel } from '../../src/backends/cpu/kernel.ts';
import { attend, attendLatent } from '../../src/backends/cpu/kernels/attention/attend.ts';
import {
  type CacheKind,
  geometryOf,
  PARTIAL_HEADER,
  SEGMENT_CHUNKS,
  scratchBytes,
  stepBytesOf,
  WIDE,
} from '../../src/backends/cpu/kernels/attention/layout.ts';
import { mergeAttention } from '../../src/backends/cpu/kernels/attention/merge.ts';
import { HEAD_NORM, qkvStoreF32, qkvStoreI8, qkvStoreI16 } from '../../src/backends/cpu/kernels/attention/store.ts';
import { bench, DATA, random, SIMD } from './support.ts';

// Node 20 has relaxed SIMD behind a flag.
if (process.versions.node.startsWith('20.')) setFlagsFromString('--experimental-wasm-relaxed-simd');
const STORE = { f32: qkvStoreF32, i16: qkvStoreI16, i8: qkvStoreI8 } as const;
const kernels = [
  ...Object.values(attend),
  ...Object.values(attendLatent),
  mergeAttention,
  ...Object.values(STORE),
] as Kernel[];
const BYTES = 4 << 20;
const simd = bench(kernels, SIMD, BYTES);

interface Sequence {
  readonly past: number;
  readonly rows: number;
}

interface Setup {
  readonly kind: CacheKind;
  readonly kvHeads: number;
  readonly group: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly sequences: readonly Sequence[];
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
  /** Threads share segments. */
  readonly split?: boolean;
  readonly segmentChunks?: number;
  readonly tileRows?: number;
  readonly nt?: number;
  readonly chunksPerBlock?: number;
  /** Values are the first entries of the keys. */
  readonly latent?: boolean;
  /** The first entry of every key. */
  readonly spike?: number;
}

/** Lays everything out in memory, stores all positions, attends with the rows of the step; keeps what went in. */
function run(s: Setup, variant: 'wasm' | 'twin', b = simd) {
  const next = random(17);
  const g = geometryOf(s.kind, s.headDim, s.valueDim, s.latent);
  const heads = s.kvHeads * s.group;
  const nt = s.nt ?? 2;
  const perBlock = 32 * (s.chunksPerBlock ?? 1);
  let free = DATA;
  const take = (bytes: number) => {
    const at = free;
    free += Math.ceil(bytes / 16) * 16 + 16;
    expect(free).toBeLessThan(DATA + BYTES);
    return at;
  };
  b.views.u8.fill(0xff, DATA, DATA + BYTES); // NaN in whatever is not written
  const put = (values: readonly number[], type: 'f32' | 'i32') => {
    const at = take(values.length * 4);
    b.views[type].set(values, at / 4);
    return at;
  };
  const blocksOf = s.sequences.map((q) => Math.ceil((q.past + q.rows) / perBlock));
  const total = blocksOf.reduce((x, y) => x + y, 0);
  const blocksPerSequence = Math.max(...blocksOf);
  // Blocks are handed out from the last one down, alternating between the sequences.
  const tables = blocksOf.map(() => [] as number[]);
  let block = total;
  for (let i = 0; block > 0; i++) {
    const which = i % tables.length;
    if (tables[which]!.length < blocksOf[which]!) tables[which]!.push(--block);
  }
  const cache = take(total * (perBlock / 32) * s.kvHeads * g.chunkBytes);
  const scratchStride = scratchBytes(g, (s.tileRows ?? 3) * s.group) + 4 * Math.max(s.headDim + 4, 32 * g.valueGroups);
  const scratch = take(nt * scratchStride);
  const width = (heads + s.kvHeads) * s.headDim + (s.latent ? 0 : s.kvHeads * s.valueDim);
  const qkvRows: number[][] = [];
  const slots: number[] = [];
  const queryRows: number[] = [];
  s.sequences.forEach((q, i) => {
    for (let p = 0; p < q.past + q.rows; p++) {
      if (p >= q.past) queryRows.push(qkvRows.length);
      slots.push(tables[i]![Math.floor(p / perBlock)]! * perBlock + (p % perBlock));
      const row = Array.from({ length: width }, () => Math.fround((next() - 0.5) * 4));
      for (let h = 0; s.spike && h < s.kvHeads; h++) row[(heads + h) * s.headDim] = s.spike;
      qkvRows.push(row);
    }
  });
  const qAll = take(qkvRows.length * heads * s.headDim * 4);
  const plain = { cosSin: 0, half: 0, interleaved: 0, normAfterRope: 0 };
  const noNorm = {
    qNorm: 0,
    qWeight: 0,
    qBias: 0,
    qEps: 0,
    qPlus: 0,
    kNorm: 0,
    kWeight: 0,
    kBias: 0,
    kEps: 0,
    kPlus: 0,
  };
  const shape = { kvHeads: s.kvHeads, headDim: s.headDim, valueDim: s.latent ? 0 : s.valueDim };
  const inside = {
    cache,
    keySteps: g.keySteps,
    valueGroups: g.valueGroups,
    chunkBytes: g.chunkBytes,
    headStride: total * (perBlock / 32) * g.chunkBytes,
    scratch,
    scratchStride,
  };
  b[variant](
    STORE[s.kind],
    {
      ...{ qkv: put(qkvRows.flat(), 'f32'), q: qAll, slots: put(slots, 'i32'), rows: qkvRows.length, heads },
      ...{ ...shape, ...inside, ...plain, ...noNorm },
    },
    nt,
  );
  // The rows of the step, packed.
  const queries = queryRows.flatMap((r) =>
    Array.from(b.views.f32.subarray(qAll / 4 + r * heads * s.headDim, qAll / 4 + (r + 1) * heads * s.headDim)),
  );
  const starts = [0];
  for (const q of s.sequences) starts.push(starts[starts.length - 1]! + q.rows);
  const sinks = s.sinks ? Array.from({ length: heads }, (_, i) => i / 2 - 1) : undefined;
  const tables32 = tables.flatMap((t) => [...t, ...new Array<number>(blocksPerSequence - t.length).fill(0)]);
  const out = take(queryRows.length * heads * s.valueDim * 4);
  const tileRows = s.tileRows ?? 3;
  const partial = s.split ? take(2000 * 4 * tileRows * s.group * (g.valueGroups * WIDE + PARTIAL_HEADER)) : 0;
  const common = {
    ...{
      out,
      seqStart: put(starts, 'i32'),
      kvLen: put(
        s.sequences.map((q) => q.past + q.rows),
        'i32',
      ),
    },
    ...{
      sinks: sinks ? put(sinks, 'f32') : 0,
      partial,
      sequences: s.sequences.length,
      kvHeads: s.kvHeads,
      group: s.group,
    },
    ...{
      valueDim: s.valueDim,
      valueGroups: g.valueGroups,
      tileRows,
      segmentChunks: s.segmentChunks ?? SEGMENT_CHUNKS,
      window: s.window ?? 0,
    },
  };
  b[variant](
    (s.latent ? attendLatent : attend)[s.kind],
    {
      ...common,
      ...{ q: put(queries, 'f32'), blockTable: put(tables32, 'i32'), blocksPerSequence, headDim: s.headDim },
      ...{
        ...inside,
        chunksPerBlock: s.chunksPerBlock ?? 1,
        causal: 1,
        split: s.split ? 1 : 0,
        scale: s.headDim ** -0.5,
        softcap: s.softcap ?? 0,
      },
    },
    nt,
  );
  if (s.split) b[variant](mergeAttention, common, nt);
  const size = queryRows.length * heads * s.valueDim;
  return { got: b.views.f32.slice(out / 4, out / 4 + size), after: b.views.u32[out / 4 + size], qkvRows, sinks };
}

/** The definition, in double precision. */
function exact(s: Setup, qkvRows: readonly (readonly number[])[], sinks: readonly number[] | undefined): number[] {
  const heads = s.kvHeads * s.group;
  const out: number[] = [];
  let base = 0;
  for (const { past, rows } of s.sequences) {
    for (let r = past; r < past + rows; r++) {
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor(h / s.group);
        const first = Math.max(0, r - (s.window ?? Infinity) + 1);
        const q = qkvRows[base + r]!.slice(h * s.headDim, (h + 1) * s.headDim);
        const weights: number[] = [];
        for (let p = first; p <= r; p++) {
          const k = (heads + kvHead) * s.headDim;
          const score = q.reduce((sum, x, d) => sum + x * qkvRows[base + p]![k + d]!, 0) / Math.sqrt(s.headDim);
          weights.push(Math.exp(s.softcap ? s.softcap * Math.tanh(score / s.softcap) : score));
        }
        const total = weights.reduce((x, y) => x + y, sinks ? Math.exp(sinks[h]!) : 0);
        for (let d = 0; d < s.valueDim; d++) {
          const k = (heads + kvHead) * s.headDim + d;
          const v = s.latent ? k : (heads + s.kvHeads) * s.headDim + kvHead * s.valueDim + d;
          out.push(weights.reduce((sum, w, i) => sum + w * qkvRows[base + first + i]![v]!, 0) / total);
        }
      }
    }
    base += past + rows;
  }
  return out;
}

const setups: Readonly<Record<string, Omit<Setup, 'kind'>>> = {
  'one position': { kvHeads: 1, group: 1, headDim: 4, valueDim: 4, sequences: [{ past: 0, rows: 1 }] },
  decode: { kvHeads: 2, group: 3, headDim: 64, valueDim: 64, sequences: [{ past: 130, rows: 1 }] },
  'decode of several': {
    ...{ kvHeads: 1, group: 2, headDim: 16, valueDim: 16 },
    sequences: [
      { past: 31, rows: 1 },
      { past: 0, rows: 1 },
      { past: 64, rows: 1 },
    ],
  },
  prefill: { kvHeads: 2, group: 2, headDim: 20, valueDim: 24, sequences: [{ past: 0, rows: 45 }], tileRows: 4, nt: 3 },
  mixed: {
    ...{ kvHeads: 1, group: 3, headDim: 6, valueDim: 33, chunksPerBlock: 2 },
    sequences: [
      { past: 40, rows: 20 },
      { past: 70, rows: 1 },
      { past: 3, rows: 0 },
      { past: 0, rows: 2 },
    ],
  },
  window: {
    kvHeads: 1,
    group: 2,
    headDim: 8,
    valueDim: 8,
    window: 9,
    sequences: [
      { past: 90, rows: 12 },
      { past: 0, rows: 5 },
    ],
  },
  'wide window': {
    kvHeads: 1,
    group: 1,
    headDim: 8,
    valueDim: 8,
    window: 50,
    sequences: [{ past: 100, rows: 40 }],
    tileRows: 7,
  },
  softcap: { kvHeads: 1, group: 2, headDim: 8, valueDim: 12, softcap: 1.5, sequences: [{ past: 20, rows: 15 }] },
  sinks: { kvHeads: 2, group: 2, headDim: 8, valueDim: 8, sinks: true, sequences: [{ past: 33, rows: 4 }] },
  'odd sizes': { kvHeads: 2, group: 1, headDim: 7, valueDim: 5, sequences: [{ past: 17, rows: 18 }] },
  pieces: {
    kvHeads: 2,
    group: 3,
    headDim: 16,
    valueDim: 20,
    split: true,
    segmentChunks: 2,
    sequences: [
      { past: 200, rows: 1 },
      { past: 20, rows: 2 },
      { past: 0, rows: 0 },
    ],
  },
  'several segments': {
    ...{ kvHeads: 1, group: 3, headDim: 16, valueDim: 20, tileRows: 4, nt: 3, segmentChunks: 2 },
    sequences: [
      { past: 120, rows: 80 },
      { past: 63, rows: 2 },
      { past: 0, rows: 130 },
    ],
  },
  'several segments, window and sinks': {
    ...{ kvHeads: 2, group: 1, headDim: 8, valueDim: 8, window: 40, sinks: true, segmentChunks: 1, tileRows: 5 },
    sequences: [{ past: 90, rows: 50 }],
  },
  'pieces, window and sinks': {
    ...{ kvHeads: 1, group: 2, headDim: 8, valueDim: 8, split: true, segmentChunks: 1, window: 70, sinks: true },
    sequences: [
      { past: 150, rows: 3 },
      { past: 140, rows: 1 },
    ],
  },
};

const LARGEST_ERROR = { f32: 3e-6, i16: 1e-3, i8: 3e-2 } as const;

describe.each(['f32', 'i16', 'i8'] as const)('attention over a cache of %s', (kind) => {
  it.each(Object.entries(setups))('%s', (_, setup) => {
    const s = { ...setup, kind };
    const wasm = run(s, 'wasm');
    const twin = run(s, 'twin');
    expect(new Uint32Array(wasm.got.buffer)).toEqual(new Uint32Array(twin.got.buffer));
    expect(wasm.after).toBe(0xffffffff);
    const want = exact(s, wasm.qkvRows, wasm.sinks);
    expect(wasm.got.length).toBe(want.length);
    want.forEach((v, i) => {
      expect(Math.abs(wasm.got[i]! - v), `element ${i}`).toBeLessThan(LARGEST_ERROR[kind]);
    });
    const error = Math.sqrt(want.reduce((sum, v, i) => sum + (wasm.got[i]! - v) ** 2, 0) / want.length);
    // Half precision of keys and values alone would give about 3e-4 here; 8 bits give steps of 2 / 127.
    expect(error).toBeLessThan({ f32: 1e-6, i16: 2e-4, i8: 6e-3 }[kind]);
  });

  it('gives the same result for every tiling', () => {
    const s: Setup = { kind, kvHeads: 1, group: 3, headDim: 16, valueDim: 16, sequences: [{ past: 50, rows: 30 }] };
    const first = run(s, 'wasm').got;
    for (const [tileRows, nt] of [
      [1, 1],
      [2, 5],
      [10, 1],
      [30, 2],
    ] as const) {
      expect(run({ ...s, tileRows, nt }, 'wasm').got).toEqual(first);
    }
  });

  it.each([0, 20])('gives a row the same result whether later ones come with it or after it (window %d)', (window) => {
    const s: Setup = { kind, kvHeads: 2, group: 3, headDim: 16, valueDim: 16, window, sequences: [] };
    const together = run({ ...s, sequences: [{ past: 20, rows: 50 }] }, 'wasm').got;
    const width = 6 * 16;
    for (let past = 20; past < 70; past++) {
      const alone = run({ ...s, sequences: [{ past, rows: 1 }] }, 'wasm').got;
      expect(together.subarray((past - 20) * width, (past - 19) * width)).toEqual(alone);
    }
  });

  it.each([
    [0, false],
    [70, true],
  ])('gives the same result when threads share the segments of a context (window %d, sinks %s)', (window, sinks) => {
    const s: Setup = {
      ...{ kind, kvHeads: 1, group: 3, headDim: 16, valueDim: 16, segmentChunks: 2, tileRows: 4, window, sinks },
      sequences: [
        { past: 300, rows: 1 },
        { past: 190, rows: 4 },
        { past: 0, rows: 1 },
        { past: 62, rows: 3 },
      ],
    };
    const whole = run({ ...s, nt: 1 }, 'wasm').got;
    for (const nt of [1, 2, 5]) expect(run({ ...s, nt, split: true }, 'wasm').got).toEqual(whole);
    const prompt: Setup = { ...s, sequences: [{ past: 0, rows: 300 }] };
    const rows = run(prompt, 'wasm').got;
    const width = 3 * 16;
    for (const past of [0, 40, 63, 64, 191, 192, 299]) {
      const alone = run({ ...s, split: true, sequences: [{ past, rows: 1 }] }, 'wasm').got;
      expect(rows.subarray(past * width, (past + 1) * width)).toEqual(alone);
    }
  });

  it('is as good with fused multiply-add', () => {
    const b = bench(kernels, { fma: true, dot: 'simd' }, BYTES);
    const s: Setup = { kind, ...setups['decode']! };
    const { got, qkvRows } = run(s, 'wasm', b);
    exact(s, qkvRows, undefined).forEach((v, i) => {
      expect(Math.abs(got[i]! - v)).toBeLessThan(LARGEST_ERROR[kind]);
    });
  });
});

describe.each(['f32', 'i16', 'i8'] as const)(
  'attention over latents of %s, whose first entries are the values',
  (kind) => {
    const latent: Readonly<Record<string, Omit<Setup, 'kind' | 'latent'>>> = {
      decode: { kvHeads: 1, group: 5, headDim: 72, valueDim: 64, sequences: [{ past: 130, rows: 1 }] },
      'odd sizes': { kvHeads: 2, group: 1, headDim: 7, valueDim: 7, sequences: [{ past: 17, rows: 18 }] },
      'one dimension': { kvHeads: 1, group: 2, headDim: 1, valueDim: 1, sequences: [{ past: 3, rows: 2 }] },
      'window and sinks': {
        ...{ kvHeads: 1, group: 2, headDim: 12, valueDim: 6, window: 40, sinks: true },
        sequences: [
          { past: 90, rows: 12 },
          { past: 0, rows: 5 },
        ],
      },
      pieces: {
        ...{ kvHeads: 1, group: 3, headDim: 24, valueDim: 20, split: true, segmentChunks: 2 },
        sequences: [{ past: 200, rows: 1 }],
      },
    };
    it.each(Object.entries(latent))('%s', (_, setup) => {
      const s = { ...setup, kind, latent: true };
      const wasm = run(s, 'wasm');
      const twin = run(s, 'twin');
      expect(new Uint32Array(wasm.got.buffer)).toEqual(new Uint32Array(twin.got.buffer));
      expect(wasm.after).toBe(0xffffffff);
      exact(s, wasm.qkvRows, wasm.sinks).forEach((v, i) => {
        expect(Math.abs(wasm.got[i]! - v), `element ${i}`).toBeLessThan(LARGEST_ERROR[kind]);
      });
    });

    it('holds where one entry is by far the largest of every key, and all weigh alike', () => {
      const s: Setup = { kind, ...latent['decode']!, latent: true, spike: 1e4, softcap: 1e-3 };
      const { got } = run(s, 'wasm');
      for (let head = 0; head < s.group; head++) expect(got[head * s.valueDim]! / 1e4).toBeCloseTo(1, 3);
    });

    it('gives a row the same result whether later ones come with it or after it', () => {
      const s: Setup = { kind, kvHeads: 1, group: 3, headDim: 24, valueDim: 16, latent: true, sequences: [] };
      const together = run({ ...s, sequences: [{ past: 20, rows: 50 }] }, 'wasm').got;
      const width = 3 * 16;
      for (let past = 20; past < 70; past++) {
        const alone = run({ ...s, sequences: [{ past, rows: 1 }] }, 'wasm').got;
        expect(together.subarray((past - 20) * width, (past - 19) * width)).toEqual(alone);
      }
    });
  },
);

describe('qkvStore', () => {
  const next = random(23);
  const values = (n: number) => Float32Array.from({ length: n }, () => (next() - 0.5) * 3);
  it.each([0, 1])('norms and rotates queries and keys (order %d) with the bits of its twin', (normAfterRope) => {
    for (const kind of ['f32', 'i16', 'i8'] as const) {
      const [rows, heads, kvHeads, headDim, valueDim, half] = [3, 2, 1, 12, 8, 4];
      const g = geometryOf(kind, headDim, valueDim);
      const width = (heads + kvHeads) * headDim + kvHeads * valueDim;
      const at = {
        qkv: DATA,
        q: DATA + 4096,
        cosSin: DATA + 8192,
        slots: DATA + 12288,
        w: DATA + 16384,
        cache: DATA + 20480,
        scratch: DATA + 65536,
      };
      const [qkv, cosSin, weights] = [values(rows * width), values(rows * 2 * half), values(2 * headDim)];
      const results = [simd.wasm, simd.twin].map((call) => {
        simd.views.u8.fill(0, DATA, DATA + 131072);
        simd.views.f32.set(qkv, at.qkv / 4);
        simd.views.f32.set(cosSin, at.cosSin / 4);
        simd.views.f32.set(weights, at.w / 4);
        simd.views.i32.set([33, 2, 63], at.slots / 4);
        const bias = at.w + headDim * 4;
        call(
          STORE[kind],
          {
            ...{
              qkv: at.qkv,
              q: at.q,
              cosSin: at.cosSin,
              cache: at.cache,
              slots: at.slots,
              rows,
              heads,
              kvHeads,
              headDim,
              valueDim,
            },
            ...{
              half,
              interleaved: 0,
              normAfterRope,
              keySteps: g.keySteps,
              valueGroups: g.valueGroups,
              chunkBytes: g.chunkBytes,
              headStride: 0,
            },
            ...{ scratch: at.scratch, scratchStride: 1024 },
            ...{ qNorm: HEAD_NORM.rms, qWeight: at.w, qBias: 0, qEps: 0.01, qPlus: 1 },
            ...{ kNorm: HEAD_NORM.layer, kWeight: 0, kBias: bias, kEps: 0.02, kPlus: 0 },
          },
          2,
        );
        return simd.views.u32.slice(at.q / 4, (at.cache + 2 * g.chunkBytes) / 4);
      });
      expect(results[0]).toEqual(results[1]);
      const norm = (x: number[], key: boolean) => {
        const mean = key ? x.reduce((s, v) => s + v, 0) / headDim : 0;
        const scale = 1 / Math.sqrt(x.reduce((s, v) => s + (v - mean) ** 2, 0) / headDim + (key ? 0.02 : 0.01));
        return x.map((v, i) =>
          key ? v * scale - mean * scale + weights[headDim + i]! : v * scale * (weights[i]! + 1),
        );
      };
      const rotate = (x: number[], row: number) =>
        x.map((v, i) => {
          if (i >= 2 * half) return v;
          const [cos, sin] = [cosSin[row * 2 * half + (i % half)]!, cosSin[row * 2 * half + half + (i % half)]!];
          return i < half ? v * cos - x[i + half]! * sin : v * cos + x[i - half]! * sin;
        });
      for (let row = 0; row < rows; row++) {
        for (let h = 0; h < heads; h++) {
          const head = Array.from(qkv.subarray(row * width + h * headDim, row * width + (h + 1) * headDim));
          const want = normAfterRope ? norm(rotate(head, row), false) : rotate(norm(head, false), row);
          want.forEach((v, i) => {
            expect(simd.views.f32[at.q / 4 + (row * heads + h) * headDim + i]).toBeCloseTo(v, 5);
          });
        }
        const head = Array.from(qkv.subarray(row * width + heads * headDim, row * width + (heads + 1) * headDim));
        const want = normAfterRope ? norm(rotate(head, row), true) : rotate(norm(head, true), row);
        const slot = [33, 2, 63][row]!;
        const chunk = at.cache + (slot >> 5) * g.chunkBytes;
        const step = stepBytesOf(kind);
        const column = chunk + ((slot & 31) >= 16 ? g.keySteps * step : 0) + ((slot & 15) * step) / 16;
        want.forEach((v, d) => {
          if (kind === 'f32') expect(simd.views.f32[(column + d * 64) / 4]).toBeCloseTo(v, 5);
          else {
            const unit = simd.views.f32[(chunk + 2 * g.keySteps * step) / 4 + (slot & 31)]!;
            const pair = column + (d >> 1) * step;
            const word = kind === 'i8' ? simd.views.i8[pair + (d & 1)]! : simd.views.i16[pair / 2 + (d & 1)]!;
            expect(Math.abs(word * unit - v)).toBeLessThanOrEqual(unit);
          }
        });
      }
    }
  });
});
