import { afterEach, describe, expect, it, vi } from 'vitest';
import { type CpuOptions, createCpuBackend } from '../../src/backends/cpu/index.ts';
import type { Backend, RawSection } from '../../src/core/backend.ts';
import { f32ToF16, rowBytes, type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import { Weight } from '../../src/core/weight.ts';
import { dequantize } from '../../src/quant/index.ts';
import { random } from './support.ts';

const MODES: readonly (readonly [string, CpuOptions])[] = [
  ['one worker', { threads: 1 }],
  ['two workers', { threads: 2 }],
  ['three workers, SIMD128', { threads: 3, simd: 'simd' }],
  ['inline', { inline: true }],
  ['inline, strict', { inline: true, strict: true }],
  ['two workers, several memories', { threads: 2, limits: { main: 16 << 20, further: 4 << 20 } }],
  ['inline, several memories', { inline: true, limits: { main: 0, further: 8 << 20 } }],
  ['twins', { simd: 'off' }],
];

const live: Backend[] = [];
async function create(options: CpuOptions): Promise<Backend> {
  const backend = await createCpuBackend(options);
  live.push(backend);
  return backend;
}
afterEach(async () => {
  for (const backend of live.splice(0)) await backend.dispose();
});

interface Stored {
  readonly section: RawSection;
  readonly values: Float32Array;
}

/** Random rows of a storage type, and the floats they stand for. */
function stored(name: StorageTypeName, rows: number, columns: number, seed: number): Stored {
  const type = storageType(name);
  const next = random(seed);
  const bytes = new Uint8Array(rows * rowBytes(type, columns)!);
  const view = new DataView(bytes.buffer);
  if (name === 'F32') for (let i = 0; i < rows * columns; i++) view.setFloat32(4 * i, next() - 0.5, true);
  else if (name === 'F16') for (let i = 0; i < rows * columns; i++) view.setUint16(2 * i, f32ToF16(next() - 0.5), true);
  else if (name === 'BF16') for (let i = 0; i < rows * columns; i++) view.setUint16(2 * i, 0x3c00 + next() * 512, true);
  else {
    for (let i = 0; i < bytes.length; i++) bytes[i] = next() * 256;
    for (let at = 0; at < bytes.length; at += type.blockBytes) {
      view.setUint16(at, f32ToF16((next() - 0.5) * 0.02), true);
      if (name.endsWith('_1')) view.setUint16(at + 2, f32ToF16((next() - 0.5) * 0.2), true);
    }
  }
  const row = rowBytes(type, columns)!;
  return {
    section: {
      type,
      rows,
      async readRows(first, n, target) {
        target.set(bytes.subarray(first * row, (first + n) * row));
      },
    },
    values: dequantize(name, bytes, columns),
  };
}

async function load(backend: Backend, parts: readonly Stored[], columns: number): Promise<Weight> {
  const rows = parts.reduce((n, p) => n + p.section.rows, 0);
  const raw = { name: 'w', shape: [rows, columns] as const, sections: parts.map((p) => p.section) };
  return new Weight('w', raw.shape, await backend.loadWeight(raw));
}

const inputs = (n: number, seed: number) => {
  const next = random(seed);
  return Float32Array.from({ length: n }, () => next() - 0.5);
};

/** Relative error of `y` against products in double precision. */
function error(y: Float32Array, x: Float32Array, w: Float32Array, columns: number, start?: Float32Array): number {
  const outputs = w.length / columns;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < y.length; i++) {
    const [t, r] = [Math.floor(i / outputs), i % outputs];
    let sum = start?.[i] ?? 0;
    for (let k = 0; k < columns; k++) sum += x[t * columns + k]! * w[r * columns + k]!;
    difference += (y[i]! - sum) ** 2;
    norm += sum ** 2;
  }
  return Math.sqrt(difference / norm);
}

describe.each(MODES)('%s', (_, options) => {
  const exact = options.simd === 'off';

  it('multiplies matrices of mixed formats by any number of rows, with bias and accumulation', async () => {
    const backend = await create(options);
    const columns = 96;
    const parts = [stored('Q4_1', 20, columns, 1), stored('Q8_0', 9, columns, 2), stored('Q5_0', 3, columns, 3)];
    const w = await load(backend, parts, columns);
    const values = Float32Array.from(parts.flatMap((p) => [...p.values]));
    const bias = inputs(32, 5);
    const biasTensor = backend.upload(bias, [32]);
    for (const rows of [1, 2, 3, 4, 7, 130]) {
      const x = inputs(rows * columns, rows);
      const start = inputs(rows * 32, rows + 1);
      const out = backend.upload(start, [rows, 32]);
      const plain = backend.alloc([rows, 32]);
      const input = backend.upload(x, [rows, columns]);
      backend.ops.linear(plain, input, w, {});
      backend.ops.linear(out, input, w, { bias: biasTensor, accumulate: true });
      const y = (await backend.read(plain)) as Float32Array;
      expect(error(y, x, values, columns)).toBeLessThan(exact ? 1e-6 : 0.01);
      const sum = (await backend.read(out)) as Float32Array;
      for (let i = 0; i < y.length; i++) expect(sum[i]).toBeCloseTo(y[i]! + bias[i % 32]! + start[i]!, 5);
      for (const t of [out, plain, input]) t.dispose();
    }
  });

  it('reads rows back exactly, across sections', async () => {
    const backend = await create(options);
    const parts = [stored('Q4_0', 10, 64, 1), stored('Q8_0', 30, 64, 2), stored('Q5_1', 8, 64, 3)];
    const w = await load(backend, parts, 64);
    const values = Float32Array.from(parts.flatMap((p) => [...p.values]));
    const ids = Int32Array.from([0, 47, 9, 10, 39, 40, 17, 10]);
    const out = backend.alloc([8, 64]);
    backend.ops.gatherRows(out, w, backend.upload(ids, [8]));
    const rows = await backend.read(out);
    ids.forEach((id, i) => {
      expect([...rows.slice(i * 64, i * 64 + 64)]).toEqual([...values.slice(id * 64, id * 64 + 64)]);
    });
  });

  it('gives memory back', async () => {
    const backend = await create(options);
    const before = backend.memory().persistent;
    const w = await load(backend, [stored('Q4_0', 64, 64, 1)], 64);
    const held = backend.memory().persistent;
    expect(held - before).toBe(exact ? 64 * 64 * 4 : (64 * 64 * 18) / 32);
    const x = backend.persistent([5, 64]);
    const y = backend.persistent([5, 64]);
    backend.ops.linear(y, x, w, {});
    for (const t of [x, y, w]) t.dispose();
    await backend.flush();
    expect(backend.memory().persistent).toBe(before);
  });
});

describe('weights larger than a loading buffer', () => {
  it('arrive whole', async () => {
    const backend = await create({ threads: 2 });
    const columns = 2048;
    const part = stored('Q8_0', 2500, columns, 4);
    const w = await load(backend, [part], columns);
    const ids = Int32Array.from([0, 1023, 1024, 2499]);
    const out = backend.alloc([4, columns]);
    backend.ops.gatherRows(out, w, backend.upload(ids, [4]));
    const rows = await backend.read(out);
    ids.forEach((id, i) => {
      expect(rows.slice(i * columns, i * columns + columns)).toEqual(
        part.values.slice(id * columns, id * columns + columns),
      );
    });
  });
});

describe.each(MODES)('experts: %s', (_, options) => {
  it('multiply the rows that chose them', async () => {
    const backend = await create(options);
    const exact = options.simd === 'off';
    const [columns, features, expertCount] = [64, 24, 5];
    for (const parts of [
      [stored('Q4_0', features * expertCount, columns, 1)],
      [stored('F32', features * 3 + 8, columns, 2), stored('Q8_0', features * 2 - 8, columns, 3)],
      [stored('Q4_1', 9, columns, 4), stored('F16', features * expertCount - 9, columns, 5)],
    ]) {
      const w = await load(backend, parts, columns);
      const values = Float32Array.from(parts.flatMap((p) => [...p.values]));
      for (const [rows, perRow, ownInputs] of [
        [1, 2, false],
        [1, 3, true],
        [7, 2, false],
        [20, 3, true],
      ] as const) {
        const pairs = rows * perRow;
        const chosen = Int32Array.from({ length: pairs }, (_, p) => (p * p + rows) % expertCount);
        const inputRows = ownInputs ? pairs : rows;
        const x = inputs(inputRows * columns, rows);
        const out = backend.alloc([pairs, features]);
        const ids = backend.upload(chosen, [rows, perRow]);
        backend.ops.linearExperts?.(out, backend.upload(x, [inputRows, columns]), w, ids, expertCount);
        const y = (await backend.read(out)) as Float32Array;
        for (let p = 0; p < pairs; p++) {
          const row = Math.floor(p / (ownInputs ? 1 : perRow)) * columns;
          const matrix = values.slice(chosen[p]! * features * columns, (chosen[p]! + 1) * features * columns);
          const result = y.slice(p * features, (p + 1) * features);
          expect(error(result, x.slice(row, row + columns), matrix, columns)).toBeLessThan(exact ? 1e-6 : 0.02);
        }
      }
      w.dispose();
    }
  });
});

describe('scratch tensors', () => {
  it('are the same objects in every pass, also where scopes of different shapes take turns', async () => {
    const backend = await create({ inline: true });
    const pass = () => {
      const seen: unknown[] = [];
      backend.scope(() => {
        seen.push(backend.allocRows(1, 64));
        for (let layer = 0; layer < 3; layer++) {
          for (const width of [96, 64, 192]) {
            backend.scope(() => seen.push(backend.allocRows(1, width), backend.alloc([2, width], 'i32')));
          }
        }
      });
      return seen;
    };
    const first = pass();
    for (const again of [pass(), pass()]) expect(again.every((t, i) => t === first[i])).toBe(true);
  });
});

describe('a runtime that lacks something', () => {
  afterEach(() => vi.unstubAllGlobals());

  it('without workers: the caller executes, and says why', async () => {
    class Forbidden {
      constructor() {
        throw new Error('blocked by policy');
      }
      unref(): void {}
    }
    vi.stubGlobal('Worker', Forbidden);
    const backend = await create({ threads: 2 });
    expect(backend.info.threads).toBe(1);
    expect(backend.info.reason).toContain('no workers here (blocked by policy): the caller executes');
    const w = await load(backend, [stored('Q4_0', 8, 32, 1)], 32);
    const out = backend.alloc([1, 8]);
    backend.ops.linear(out, backend.upload(new Float32Array(32), [1, 32]), w, {});
    expect([...(await backend.read(out))]).toEqual(Array(8).fill(0));
  });

  it('without shared memory: the caller executes', async () => {
    vi.stubGlobal('SharedArrayBuffer', undefined);
    const backend = await create({});
    expect(backend.info.reason).toContain('no shared memory here');
    expect(backend.info.simd).toBe('relaxed');
  });

  it('without WebAssembly that may be compiled: the twins run', async () => {
    vi.stubGlobal('WebAssembly', {
      ...{ Memory: WebAssembly.Memory, Table: WebAssembly.Table, Instance: WebAssembly.Instance, validate: () => true },
      Module: class {
        constructor() {
          throw new Error('blocked by policy');
        }
      },
    });
    const backend = await create({ inline: true });
    expect(backend.info).toMatchObject({ simd: 'off', reason: 'the engine has no working SIMD' });
  });

  it('refuses a number of threads that is none', async () => {
    await expect(createCpuBackend({ threads: Number.NaN })).rejects.toThrow('threads: expected auto or a whole number');
  });
});

describe('disposal', () => {
  it('rejects what is still running, and everything afterwards', async () => {
    const backend = await create({ threads: 2 });
    const x = backend.upload(new Float32Array(1 << 22), [1 << 22]);
    for (let i = 0; i < 50; i++) backend.ops.unary('sin', x, x, 0, 0);
    const read = backend.read(x);
    const outcome = expect(read).rejects.toThrow('cpu: the back-end was disposed');
    await backend.dispose();
    await outcome;
    await backend.dispose();
    expect(() => backend.alloc([1])).toThrow(/disposed/);
    x.dispose();
  });
});
