import { describe, expect, it } from 'vitest';
import type { Variant } from '../../src/backends/cpu/kernel.ts';
import { FAMILIES } from '../../src/backends/cpu/linear/families.ts';
import { groupedFamilies } from '../../src/backends/cpu/linear/groupedFamilies.ts';
import { CODE_FORMATS, codeOffsets } from '../../src/backends/cpu/linear/kquant.ts';
import { codeFamilies } from '../../src/backends/cpu/linear/kquantFamilies.ts';
import { groupsOf } from '../../src/backends/cpu/linear/layout.ts';
import { rowBytes, STORAGE_TYPES, type StorageType, storageType } from '../../src/core/dtype.ts';
import { type GroupCode, groupedType } from '../../src/core/grouped.ts';
import { dequantizeInto } from '../../src/quant/index.ts';
import { floats, multiply, roundedInputs, setupsOf } from './kquantSupport.ts';
import { enableRelaxedSimd, SIMD } from './support.ts';

enableRelaxedSimd();

const RELAXED: readonly Variant[] = [
  { fma: false, dot: 'i16' },
  { fma: true, dot: 'i16' },
  // The 32-bit dot product of Node 20 gives wrong results.
  ...(process.versions.node.startsWith('20.') ? [] : [{ fma: false, dot: 'i32' } as const]),
];
/** Types of blocks, two to a row, so that the loop over them is seen. */
const BLOCKS = [...codeFamilies(FAMILIES.get('Q8_0')!), ...groupedFamilies()].map(([name]) => {
  const type = storageType(name);
  return [name, type, Math.max(96, 2 * type.blockSize)] as const;
});
const rowsOf = (name: string, code: GroupCode, group: number, bias: boolean, columns: number, activationBits?: 8) => {
  const grouping = { label: name, code, group, bias, indexed: false, ...(activationBits && { activationBits }) };
  return [name, groupedType(grouping, columns), columns] as const;
};
const TYPES: readonly (readonly [string, StorageType, number])[] = [
  ...BLOCKS,
  rowsOf('u4, groups of 128', 'u4', 128, true, 256),
  rowsOf('u4, groups of 96', 'u4', 96, true, 192),
  rowsOf('u4, groups of 96, 8-bit activations', 'u4', 96, true, 192, 8),
  rowsOf('u4, groups of 256, 8-bit activations', 'u4', 256, true, 512, 8),
  rowsOf('u4, one group', 'u4', 4096, true, 1536),
  rowsOf('u8, groups of 64', 'u8', 64, true, 192),
  rowsOf('i8, one group', 'i8', 160, false, 160),
  rowsOf('i8, one large group', 'i8', 2048, false, 2048),
  rowsOf('nf4, groups of 128', 'nf4', 128, false, 256),
  rowsOf('fp4, groups of 32', 'fp4', 32, false, 96),
  rowsOf('e2m1, groups of 32', 'e2m1', 32, false, 96),
  rowsOf('e2m1, groups of 16', 'e2m1', 16, false, 96),
];

/** Float rounding of sums in which offsets and minima cancel, relative to the sum of the magnitudes. */
const CANCELLATION = 1e-5;
/** Numbers of this book are rounded to 12 bits. */
const toleranceOf = (name: string) => (/nf4/i.test(name) ? 1e-3 : CANCELLATION);

function decoded(type: StorageType, bytes: Uint8Array, columns: number): Float32Array {
  const out = new Float32Array((bytes.length / rowBytes(type, columns)!) * columns);
  dequantizeInto(type, bytes, 0, out, 0, out.length);
  return out;
}

/** No `−0`: its sign carries no information. */
const canonical = (x: ArrayLike<number>) => Array.from(x, (v) => v + 0);

function largestDifference(a: Uint32Array, b: Uint32Array): number {
  const x = floats(a);
  const y = floats(b);
  const scale = y.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-30);
  return x.reduce((m, v, i) => Math.max(m, Math.abs(v - y[i]!)), 0) / scale;
}

it('every block format of GGUF files has a family', () => {
  const inGguf = [...STORAGE_TYPES.values()].filter((t) => t.ggml !== undefined && t.blockSize > 1);
  const blocked = inGguf.map((t) => t.name);
  expect(blocked.length).toBe(26);
  for (const name of blocked) expect(FAMILIES.has(name), name).toBe(true);
});

it('blocks have the sizes that the table of the formats states', () => {
  const bits = Object.fromEntries(
    Object.entries(CODE_FORMATS).map(([name, f]) => [name, codeOffsets(f).bytes / f.block]),
  );
  expect(bits).toEqual({
    ...{ Q2_K: 2.75, Q3_K: 3.625, Q4_K: 4.75, Q5_K: 5.75, Q6_K: 6.625, Q8_K: 8.125 },
    ...{ IQ1_S: 3.375, IQ1_M: 3.625, IQ2_XXS: 3.375, IQ2_S: 3.625, IQ3_XXS: 4.375, IQ3_S: 4.375, IQ4_XS: 4.375 },
    ...{ TQ2_0: 2.125, IQ4_NL: 4.5, MXFP4: 4.5, NVFP4: 5, Q1_0: 1.5 },
  });
});

describe.each(TYPES)('%s', (name, type, columns) => {
  const setup = setupsOf(type);

  it('repacks as its twin, whatever the number of threads', async () => {
    const s = await setup(SIMD, { rows: 20, columns, tokens: 1 });
    const bytes = groupsOf(20) * s.family.groupBytes(columns);
    const results = (['wasm', 'twin'] as const).flatMap((how) =>
      [1, 2].map((nt) => {
        s.b.views.u8.fill(0xaa, s.at.w, s.at.w + bytes);
        s.b[how](s.family.repack, { source: s.at.source, target: s.at.w, groups: 3, columns }, nt);
        return s.b.views.u8.slice(s.at.w, s.at.w + bytes);
      }),
    );
    for (const r of results) expect(r).toEqual(results[0]);
  });

  it('reads back the floats that the format defines', async () => {
    for (const weights of ['random', 'largest', 'zero'] as const) {
      const s = await setup(SIMD, { rows: 21, columns, tokens: 8, weights, seed: 4 });
      const expected = decoded(type, s.stored, columns);
      const ids = [0, 20, 7, 8, 3, 3, 12, 5];
      s.b.views.i32.set(ids, s.at.x / 4);
      for (const how of ['wasm', 'twin'] as const) {
        s.b.views.f32.fill(-1, s.at.q / 4, s.at.q / 4 + 8 * columns);
        // Two sections over the same rows: the ids of the other one are left alone.
        const args = { w: s.at.w, columns, ids: s.at.x, count: 8, y: s.at.q };
        s.b[how](s.family.gather, { ...args, first: 0, rows: 21 }, 2);
        s.b[how](s.family.gather, { ...args, first: 21, rows: 21 });
        ids.forEach((id, i) => {
          const at = s.at.q / 4 + i * columns;
          const got = canonical(s.b.views.f32.subarray(at, at + columns));
          expect(got).toEqual(canonical(expected.subarray(id * columns, (id + 1) * columns)));
        });
      }
    }
  });

  it('multiplies with the bits of its twin: SIMD128, every tile size, threads, bias, accumulation, odd rows', async () => {
    for (const [rows, tokens] of [
      [13, 2],
      [9, 7],
      [17, 5],
    ] as const) {
      const s = await setup(SIMD, { rows, columns, tokens, seed: rows });
      for (const options of [{}, { bias: true, accumulate: true, nt: 3 }]) {
        expect(multiply(s, 'wasm', options)).toEqual(multiply(s, 'twin', options));
      }
    }
  });

  it('is exact in integers at the extremes', async () => {
    for (const [weights, inputs, seed] of [
      ['largest', 'largest', 2],
      ['largest', 'largest', 3],
      ['lowest', 'largest', 2],
      ['lowest', 'largest', 3],
      ['random', 'largest', 2],
      ['random', 'zero', 2],
    ] as const) {
      const s = await setup(SIMD, { rows: 8, columns, tokens: 5, weights, inputs, seed });
      expect(multiply(s, 'wasm')).toEqual(multiply(s, 'twin'));
    }
  });

  it('tiles of every size agree with single tokens', async () => {
    const s = await setup(SIMD, { rows: 16, columns, tokens: 7 });
    const together = multiply(s, 'wasm');
    const inputs = s.b.views.f32.slice(s.at.x / 4, s.at.x / 4 + 7 * columns);
    const single = await setup(SIMD, { rows: 16, columns, tokens: 1 });
    const { x, q, d, s: sums } = single.at;
    for (let t = 0; t < 7; t++) {
      single.b.views.f32.set(inputs.subarray(t * columns, (t + 1) * columns), x / 4);
      single.b.wasm(single.family.activation.kernel, { x, q, d, s: sums, rows: 1, columns, copyStride: 0 });
      expect(multiply(single, 'wasm')).toEqual(together.slice(t * 19, t * 19 + 19));
    }
  });

  it('is the product of the dequantized matrix and the rounded inputs, which are as near to the inputs as they can be', async () => {
    const s = await setup(SIMD, { rows: 16, columns, tokens: 6, seed: 9 });
    const w = decoded(type, s.stored, columns);
    const y = floats(multiply(s, 'wasm'));
    const rounded = roundedInputs(s);
    const block = s.family.activation.name === 'k16' ? 256 : 32;
    for (let t = 0; t < 6; t++) {
      const x = s.b.views.f32.slice(s.at.x / 4 + t * columns, s.at.x / 4 + (t + 1) * columns);
      const inputs = rounded.subarray(t * columns, (t + 1) * columns);
      x.forEach((value, k) => {
        const largest = x
          .subarray(k - (k % block), k - (k % block) + block)
          .reduce((m, v) => Math.max(m, Math.abs(v)), 0);
        expect(Math.abs(value - inputs[k]!)).toBeLessThanOrEqual((largest / 254) * 1.00001);
      });
      for (let r = 0; r < 16; r++) {
        let sum = 0;
        let magnitude = 0;
        for (let k = 0; k < columns; k++) {
          const product = w[r * columns + k]! * inputs[k]!;
          sum += product;
          magnitude += Math.abs(product);
        }
        expect(Math.abs(sum - y[t * 19 + r]!)).toBeLessThanOrEqual(magnitude * toleranceOf(name));
      }
    }
  });

  const relaxed = hasRelaxed();
  it.skipIf(!relaxed)(
    `relaxed SIMD: same integers, floats within rounding${relaxed ? '' : ' (engine lacks it)'}`,
    async () => {
      for (const [weights, inputs, rows, tokens, seed] of [
        // Inputs that codes of 8 and of 16 bits hold exactly.
        ['random', 'integers', 13, 7, 1],
        ['largest', 'largest', 16, 7, 3],
        ['largest', 'largest', 8, 6, 2],
        ['lowest', 'largest', 16, 7, 3],
        ['random', 'largest', 24, 5, 2],
      ] as const) {
        const shape = { rows, columns, tokens, weights, inputs, seed };
        const expected = multiply(await setup(SIMD, shape), 'wasm', { bias: true });
        for (const variant of RELAXED) {
          const actual = multiply(await setup(variant, shape), 'wasm', { bias: true });
          if (variant.fma) expect(largestDifference(actual, expected)).toBeLessThan(2e-6);
          else expect(actual).toEqual(expected);
        }
      }
    },
  );
});

function hasRelaxed(): boolean {
  // i16x8.relaxed_dot_i8x16_i7x16_s of two zeros, dropped.
  const body = [0, 0x41, 0, 0xfd, 15, 0x41, 0, 0xfd, 15, 0xfd, 0x92, 2, 0x1a, 0x0b];
  return WebAssembly.validate(
    new Uint8Array([
      0,
      97,
      115,
      109,
      1,
      0,
      0,
      0,
      1,
      4,
      1,
      96,
      0,
      0,
      3,
      2,
      1,
      0,
      10,
      body.length + 2,
      1,
      body.length,
      ...body,
    ]),
  );
}
