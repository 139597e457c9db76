import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError, ShapeError, WeightError } from '../../src/core/errors.ts';
import { FP4, NF4 } from '../../src/quant/codes.ts';
import { dequantize, quantize, quantTypes } from '../../src/quant/index.ts';
import { bits, fixture } from './fixture.ts';

const afq = fixture('afq.safetensors');
const fp8 = fixture('fp8_scaled.safetensors');
const hqq = fixture('hqq_bnb.safetensors');

/** Blocks of a header and codes, put together from tensors of their own. */
function blocksOf(headers: readonly Float32Array[], codes: Uint8Array): Uint8Array {
  const count = headers[0]!.length;
  const perBlock = codes.length / count;
  const out = new Uint8Array(count * (4 * headers.length + perBlock));
  const view = new DataView(out.buffer);
  for (let b = 0; b < count; b++) {
    const at = b * (4 * headers.length + perBlock);
    headers.forEach((h, i) => {
      view.setFloat32(at + 4 * i, h[b]!, true);
    });
    out.set(codes.subarray(b * perBlock, (b + 1) * perBlock), at + 4 * headers.length);
  }
  return out;
}

const joined = (...parts: readonly (Uint8Array | Float32Array)[]) =>
  Uint8Array.from(parts.flatMap((p) => [...new Uint8Array(p.buffer, p.byteOffset, p.byteLength)]));

describe('AFQ', () => {
  const kinds = [2, 3, 4, 6, 8].flatMap((b) => [32, 64, 128].map((g) => [b, g] as const));

  it.each(kinds)('%i bits, groups of %i: bytes and floats of the range rule', (b, g) => {
    const type = g === 64 ? `AFQ${b}` : `afq${b}_g${g}`;
    const at = `minmax.b${b}_g${g}`;
    const expected = blocksOf([afq.floats(`${at}.scales`), afq.floats(`${at}.biases`)], afq.bytes(`${at}.words`));
    const got = quantize(type, afq.floats('x'), 256);
    expect(got).toEqual(expected);
    expect(bits(dequantize(type, got, 256))).toEqual(bits(afq.floats(`${at}.dequant`)));
  });

  it.each(kinds)('%i bits, groups of %i: reads what MLX writes', (b, g) => {
    const at = `mlx.b${b}_g${g}`;
    const bytes = blocksOf([afq.floats(`${at}.scales`), afq.floats(`${at}.biases`)], afq.bytes(`${at}.words`));
    const got = dequantize(g === 64 ? `AFQ${b}` : `AFQ${b}_G${g}`, bytes, 256);
    const expected = afq.floats(`${at}.dequant`);
    // Fused there, rounded twice here.
    got.forEach((v, i) => {
      expect(Math.abs(v - expected[i]!)).toBeLessThanOrEqual(2 ** -24);
    });
  });
});

describe('floats of 8 bits', () => {
  it.each([
    ['F8_E4M3', 'e4m3fn'],
    ['F8_E5M2', 'e5m2'],
  ])('%s codes are those of the reference, saturating', (type, at) => {
    const x = fp8.floats(`${at}.in`);
    expect(quantize(type, x, x.length)).toEqual(fp8.bytes(`${at}.out_saturating`));
    expect(dequantize(type, quantize(type, Float32Array.of(Number.NaN), 1), 1)).toEqual(Float32Array.of(Number.NaN));
  });

  it('under the scale of the tensor', () => {
    const bytes = joined(fp8.bytes('pertensor.weight'), fp8.floats('pertensor.weight_scale'));
    expect(dequantize('F8E4M3', bytes, 64)).toEqual(fp8.floats('pertensor.dequant'));
    const x = fp8.floats('pertensor.x');
    const got = quantize('fp8', x, 64);
    // Elements are rounded to bfloat16 first, which changes a code here and there by one step.
    let steps = 0;
    got.subarray(0, x.length).forEach((code, i) => {
      steps += Math.abs(code - bytes[i]!);
    });
    expect(steps).toBeLessThan(x.length / 20);
  });

  it('under scales of blocks, of sizes that do not divide', () => {
    const bytes = joined(fp8.bytes('blockwise.weight'), fp8.floats('blockwise.weight_scale_inv'));
    const values = dequantize('F8E4M3_BLOCK', bytes, 300);
    expect(bits(values)).toEqual(bits(fp8.floats('blockwise.dequant')));
    const again = quantize('F8E4M3_BLOCK', values, 300);
    expect(bits(dequantize('F8E4M3_BLOCK', again, 300))).toEqual(bits(values));
  });

  it('F8Q8', () => {
    const got = quantize('F8Q8', fp8.floats('f8q8.x'), 64);
    expect(got).toEqual(fp8.bytes('f8q8.raw'));
    expect(bits(dequantize('F8Q8', got, 64))).toEqual(bits(fp8.floats('f8q8.dequant')));
  });
});

describe('bitsandbytes', () => {
  it.each(['nf4', 'fp4'])('%s', (type) => {
    const book = hqq.floats(`bnb.${type}`);
    expect(bits(type === 'nf4' ? NF4 : FP4)).toEqual(bits(book));
    const expected = blocksOf([hqq.floats(`bnb.${type}.absmax`)], hqq.bytes(`bnb.${type}.weight`));
    const got = quantize(type, hqq.floats('hqq.x'), 128);
    const values = dequantize(type, got, 128);
    expect(bits(values)).toEqual(bits(hqq.floats(`bnb.${type}.dequant`)));
    expect(dequantize(type, expected, 128)).toEqual(hqq.floats(`bnb.${type}.dequant`));
    expect(got).toEqual(expected);
  });

  it('signed bytes', () => {
    const x = Float32Array.of(1, -2, 0.5, 0, 0, 0, 0, 0, 3);
    const bytes = quantize('INT8', x, 3);
    expect([...new Int8Array(bytes.buffer, 0, 9)]).toEqual([64, -127, 32, 0, 0, 0, 0, 0, 127]);
    expect(dequantize('INT8', bytes, 3)[1]).toBeCloseTo(-2, 6);
  });
});

describe('HQQ', () => {
  it.each([8, 4, 3, 2, 1])('%i bits', (b) => {
    const at = `hqq.b${b}`;
    const bytes = joined(hqq.bytes(`${at}.packed`), hqq.floats(`${at}.scales`), hqq.floats(`${at}.zeros`));
    expect(bits(dequantize(`HQQ${b}`, bytes, 128))).toEqual(bits(hqq.floats(`${at}.dequant`)));
    const got = quantize(`HQQ${b}`, hqq.floats('hqq.x'), 128);
    expect(got.length).toBe(bytes.length);
    // The powers of the reference differ in the last bit.
    const packed = hqq.bytes(`${at}.packed`);
    const different = packed.filter((byte, i) => byte !== got[i]).length;
    expect(different).toBeLessThanOrEqual(packed.length / 200);
    const expected = hqq.floats(`${at}.dequant`);
    dequantize(`HQQ${b}`, got, 128).forEach((v, i) => {
      expect(Math.abs(v - expected[i]!)).toBeLessThan(1e-5 + 0.3 / 2 ** b);
    });
  });
});

describe('matrices stored as a whole', () => {
  const whole = quantTypes.filter((t) => t.wholeTensor);
  // Largest error as a share of the largest magnitude.
  const bound: Record<string, number> = {
    ...{ HQQ8: 0.012, HQQ4: 0.2, HQQ3: 0.4, HQQ2: 0.9, HQQ1: 1.6 },
    ...{ F8E4M3: 0.04, F8E4M3_ROW: 0.036, F8E4M3_BLOCK: 0.036, INT8: 0.004 },
  };

  it.each(whole)('$name stays near, and refuses what it cannot hold', ({ name }) => {
    expect(bound[name]).toBeDefined();
    // HQQ limits its scale: a step is at least 1 / 20000.
    const floor = name.startsWith('HQQ') ? 2.6e-5 : 1e-30;
    const values = fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 64, maxLength: 64 });
    fc.assert(
      fc.property(
        values,
        fc.constantFrom(1, 2, 5),
        fc.constantFrom(64, 192),
        fc.constantFrom(1e-3, 1, 40),
        (v, rows, columns, scale) => {
          const x = Float32Array.from(
            { length: rows * columns },
            (_, i) => scale * v[(i * 7 + Math.floor(i / 64)) % 64]!,
          );
          const bytes = quantize(name, x, columns);
          const y = dequantize(name, bytes, columns);
          expect(y.length).toBe(x.length);
          const largest = x.reduce((m, w) => Math.max(m, Math.abs(w)), 0);
          y.forEach((w, i) => {
            expect(Math.abs(w - x[i]!)).toBeLessThanOrEqual(bound[name]! * largest + floor);
          });
          expect(() => dequantize(name, bytes.subarray(1), columns)).toThrow();
        },
      ),
      { numRuns: 12, seed: 5 },
    );
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const x = new Float32Array(128).fill(1);
      x[70] = bad;
      expect(() => quantize(name, x, 64)).toThrow(WeightError);
      expect(() => quantize(name, x, 64)).toThrow('in row 1, column 6');
    }
    expect(() => quantize(name, new Float32Array(65), 64)).toThrow(ShapeError);
    expect(() => quantize(name, new Float32Array(64), 0)).toThrow(ShapeError);
    expect(quantize(name, new Float32Array(0), 64).length).toBe(0);
    expect(dequantize(name, new Uint8Array(0), 64).length).toBe(0);
    for (const fill of [0, -0, 1e-40, 1e-20, 0.25, -3e4]) {
      const y = dequantize(name, quantize(name, new Float32Array(128).fill(fill), 64), 64);
      y.forEach((w) => {
        expect(Math.abs(w - fill)).toBeLessThanOrEqual(0.005 * Math.abs(fill) + 1e-20);
      });
    }
  });

  it('say what is wrong with their bytes', () => {
    expect(() => dequantize('F8E4M3', new Uint8Array(64), 64)).toThrow(FormatError);
    expect(() => dequantize('HQQ4', new Uint8Array(40), 32)).not.toThrow();
    expect(() => dequantize('HQQ4', new Uint8Array(41), 64)).toThrow(FormatError);
    expect(() => quantize('HQQ4', new Float32Array(96), 32)).toThrow(ShapeError);
  });
});
