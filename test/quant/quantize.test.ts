import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { STORAGE_TYPES } from '../../src/core/dtype.ts';
import { ShapeError, UnsupportedError, WeightError } from '../../src/core/errors.ts';
import { dequantize, quantize, quantTypes } from '../../src/quant/index.ts';
import { bits, fixture } from './fixture.ts';

const oracle = fixture('ggml_quantize.safetensors');
const inputs = oracle.names.filter((name) => name.startsWith('x.')).map((name) => name.slice(2));
const inGguf = (name: string) => STORAGE_TYPES.get(name)?.ggml !== undefined;
const writable = quantTypes.filter((t) => t.writable && t.name !== 'F32' && inGguf(t.name)).map((t) => t.name);

describe('block formats encode to the bytes of the reference implementation', () => {
  it.each(writable)('%s', (type) => {
    for (const input of inputs) {
      const x = oracle.floats(`x.${input}`);
      const rowLength = oracle.shape(`x.${input}`)[1]!;
      expect(quantize(type, x, rowLength), input).toEqual(oracle.bytes(`${type}.${input}`));
    }
  });

  it.each(quantTypes.filter((t) => t.usesImportance).map((t) => t.name))('%s with importance', (type) => {
    const known = inputs.filter((input) => oracle.has(`${type}.${input}.imatrix`));
    expect(known.length).toBe(5);
    for (const input of known) {
      const importance = oracle.floats(`imatrix.${input}`);
      const x = oracle.floats(`x.${input}`);
      const got = quantize(type, x, importance.length, { importance });
      expect(got, input).toEqual(oracle.bytes(`${type}.${input}.imatrix`));
      expect(got, input).not.toEqual(oracle.bytes(`${type}.${input}`));
    }
  });
});

describe('round trips', () => {
  // Largest error of a block as a share of its largest magnitude.
  const bound: Record<string, number> = {
    ...{ Q4_0: 0.126, Q4_1: 0.14, Q5_0: 0.064, Q5_1: 0.065, Q8_0: 0.0045, Q8_1: 0.0045, Q8_K: 0.0045 },
    ...{ Q2_K: 0.9, Q3_K: 0.35, Q4_K: 0.16, Q5_K: 0.08, Q6_K: 0.04, IQ4_NL: 0.21, IQ4_XS: 0.21 },
    ...{ TQ1_0: 0.501, TQ2_0: 0.501, MXFP4: 0.26, NVFP4: 0.3 },
    // One-sided ranges reach from the smallest to the largest element: twice the largest magnitude.
    ...{ AFQ2: 0.34, AFQ3: 0.144, AFQ4: 0.067, AFQ6: 0.016, AFQ8: 0.004 },
    ...{ AFQ2_G32: 0.34, AFQ3_G32: 0.144, AFQ4_G32: 0.067, AFQ6_G32: 0.016, AFQ8_G32: 0.004 },
    ...{ AFQ2_G128: 0.34, AFQ3_G128: 0.144, AFQ4_G128: 0.067, AFQ6_G128: 0.016, AFQ8_G128: 0.004 },
    ...{ F8Q8: 0.07, NF4: 0.153, FP4: 0.168 },
  };
  const blocked = quantTypes.filter((t) => t.writable && t.blockSize > 1 && !t.wholeTensor);
  const LARGEST_F8Q8 = 127;
  const magnitude = fc.double({ min: -1, max: 1, noNaN: true });
  const row = fc.tuple(
    fc.array(magnitude, { minLength: 256, maxLength: 256 }),
    fc.constantFrom(0.001, 0.02, 1, 50),
    fc.constantFrom(1, 3),
  );
  const decode = (name: string, x: Float32Array, importance?: Float32Array) =>
    dequantize(name, quantize(name, x, x.length, importance ? { importance } : {}), x.length);

  it('knows every block type', () => {
    expect(Object.keys(bound).sort()).toEqual(blocked.map((t) => t.name).sort());
  });

  it.each(blocked)('$name stays near', ({ name, blockSize, usesImportance }) => {
    fc.assert(
      fc.property(row, fc.boolean(), ([values, scale, power], weighted) => {
        const x = Float32Array.from(values, (v) => scale * v ** power);
        const importance = weighted && usesImportance ? new Float32Array(256).fill(0.5) : undefined;
        const y = decode(name, x, importance);
        for (let start = 0; start < 256; start += blockSize) {
          let max = 0;
          let error = 0;
          for (let i = start; i < start + blockSize; i++) {
            max = Math.max(max, Math.abs(x[i]!));
            error = Math.max(error, Math.abs(x[i]! - y[i]!));
          }
          // Beside the bound of the codes, half a step of the smallest scale times the largest code (in blocks of 256,
          // times the largest scale code).
          const least =
            name === 'NVFP4'
              ? 6 * 2 ** -10
              : name === 'F8Q8'
                ? (127 * 2 ** -10) / 448
                : (blockSize === 256 ? 128 : 1) * 32 * 2 ** -25;
          expect(error).toBeLessThanOrEqual(bound[name]! * max + least);
        }
      }),
      { numRuns: 60, seed: 7 },
    );
  });

  it.each([
    ...['Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q8_1', 'TQ1_0', 'TQ2_0', 'MXFP4', 'NF4', 'FP4'],
    ...['AFQ2', 'AFQ4', 'AFQ6', 'AFQ8'],
  ])('%s: decoded values are a fixed point', (name) => {
    fc.assert(
      fc.property(row, ([values, scale]) => {
        const once = decode(
          name,
          Float32Array.from(values, (v) => scale * v),
        );
        expect(bits(decode(name, once))).toEqual(bits(once));
      }),
      { numRuns: 60, seed: 7 },
    );
  });

  it.each(blocked)('$name: extreme rows decode to finite values', ({ name, usesImportance }) => {
    const rows: Record<string, Float32Array> = {
      zeros: new Float32Array(256),
      'negative zeros': new Float32Array(256).fill(-0),
      subnormals: new Float32Array(256).map((_, i) => (i - 128) * 1e-43),
      'below binary16': new Float32Array(256).map((_, i) => (i - 128) * 1e-11),
      'one spike': new Float32Array(256).fill(20000, 77, 78),
      alternating: new Float32Array(256).map((_, i) => (i % 2 ? -60000 : 60000)),
    };
    const importances = [undefined, new Float32Array(256), new Float32Array(256).fill(1e15), new Float32Array(256)];
    importances[3]!.fill(1e-9, 0, 3);
    for (const [what, x] of Object.entries(rows)) {
      if (name === 'F8Q8' && x.some((v) => Math.abs(v) > LARGEST_F8Q8)) {
        expect(() => decode(name, x), what).toThrow('expected finite values up to 127');
        continue;
      }
      for (const importance of usesImportance ? importances : [undefined]) {
        const y = decode(name, x, importance);
        expect(y.every(Number.isFinite), what).toBe(true);
        const largest = Math.max(...x.map(Math.abs));
        expect(Math.max(...y.map(Math.abs)), what).toBeLessThanOrEqual(largest * 1.6 + 1e-6);
        // Columns without importance keep their weights.
        if (largest > 1)
          expect(
            y.some((v) => v !== 0),
            what,
          ).toBe(true);
      }
    }
  });

  it('more bits, less error', () => {
    const x = oracle.floats('x.weights');
    const rmse = ['Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K', 'Q8_0', 'BF16'].map((name) => {
      const y = dequantize(name, quantize(name, x, 512), 512);
      return Math.sqrt(x.reduce((sum, v, i) => sum + (v - y[i]!) ** 2, 0) / x.length);
    });
    expect(rmse).toEqual([...rmse].sort((a, b) => b - a));
  });

  it.each(['Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q4_0', 'Q4_1', 'Q5_0', 'IQ4_XS'])(
    '%s: importance lowers the weighted error',
    (name) => {
      const x = oracle.floats('x.gauss');
      const importance = oracle.floats('imatrix.gauss');
      const error = (bytes: Uint8Array) => {
        const y = dequantize(name, bytes, 512);
        return x.reduce((sum, v, i) => sum + importance[i % 512]! * (v - y[i]!) ** 2, 0);
      };
      expect(error(quantize(name, x, 512, { importance }))).toBeLessThan(0.97 * error(quantize(name, x, 512)));
    },
  );
});

describe('quantize refuses', () => {
  const at = (row: number, column: number, value: number) => {
    const x = new Float32Array(3 * 256).fill(0.5);
    x[row * 256 + column] = value;
    return x;
  };

  it.each([Number.NaN, Infinity, -Infinity])('%d, and says where', (value) => {
    for (const { name } of quantTypes.filter((t) => t.writable && t.blockSize > 1)) {
      expect(() => quantize(name, at(1, 17, value), 256), name).toThrow(WeightError);
      expect(() => quantize(name, at(1, 17, value), 256), name).toThrow(`got ${value} in row 1, column 17`);
    }
  });

  it('values too large for a binary16 scale, and says where', () => {
    expect(() => quantize('Q8_0', at(2, 40, 1e7), 256)).toThrow('in row 2, columns 32 to 63');
    expect(() => quantize('Q4_K', at(2, 40, 1e8), 256)).toThrow('in row 2, columns 0 to 255');
    expect(() => quantize('Q6_K', at(2, 40, 1e30), 256)).toThrow('row 2, column 40');
    expect(dequantize('Q8_K', quantize('Q8_K', at(2, 40, 1e30), 256), 256)[2 * 256 + 40]).toBeCloseTo(1e30, -26);
  });

  it('but unblocked floats keep infinities and NaN', () => {
    for (const name of ['F32', 'F16', 'BF16']) {
      const x = Float32Array.of(1, Infinity, -Infinity, Number.NaN);
      expect(dequantize(name, quantize(name, x, 4), 4)).toEqual(x);
    }
  });

  it('rows that do not divide', () => {
    expect(() => quantize('Q4_K', new Float32Array(288), 288)).toThrow(ShapeError);
    expect(() => quantize('Q4_K', new Float32Array(288), 288)).toThrow('multiple of 256, got 288');
    expect(() => quantize('Q8_0', new Float32Array(100), 64)).toThrow('whole rows of 64 elements, got 100');
    expect(() => quantize('Q8_0', new Float32Array(0), 0)).toThrow(ShapeError);
    expect(quantize('Q8_0', new Float32Array(0), 64).length).toBe(0);
  });

  it('types that can only be read', () => {
    expect(() => quantize('IQ2_XXS', new Float32Array(256), 256)).toThrow(UnsupportedError);
    expect(() => quantize('I8', new Float32Array(256), 256)).toThrow('expected a type that can be written (F32, F16,');
  });

  it('importance that does not fit', () => {
    const x = at(0, 0, 1);
    const importance = new Float32Array(256).fill(1);
    expect(() => quantize('Q4_K', x, 256, { importance: importance.subarray(1) })).toThrow(ShapeError);
    for (const value of [-1, Number.NaN, Infinity]) {
      importance[9] = value;
      expect(() => quantize('Q4_K', x, 256, { importance })).toThrow(`got ${value} in column 9`);
      expect(() => quantize('Q8_0', x, 256, { importance })).not.toThrow();
    }
  });

  it('a vector of zeros counts as no importance', () => {
    const x = oracle.floats('x.gauss');
    expect(quantize('Q4_K', x, 512, { importance: new Float32Array(512) })).toEqual(quantize('Q4_K', x, 512));
  });
});
