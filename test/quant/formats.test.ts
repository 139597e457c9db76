import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../src/core/dtype.ts';
import { FormatError, ShapeError, UnsupportedError } from '../../src/core/errors.ts';
import { iq1Book, iq2sBook, iq2xsBook, iq2xxsBook, iq3sBook, iq3xxsBook } from '../../src/quant/books.ts';
import { dequantize, dequantizeInto, quantFormat, quantTypes } from '../../src/quant/index.ts';
import { tensorFormat } from '../../src/quant/registry.ts';
import { fixture } from './fixture.ts';

const oracle = fixture('ggml_dequant.safetensors');

function fnv1a(values: Int8Array): number {
  let hash = 0x811c9dc5;
  for (const value of values) hash = Math.imul(hash ^ (value & 255), 0x01000193) >>> 0;
  return hash;
}

describe('code books of the IQ formats', () => {
  // Length and FNV-1a hash of the published tables, one signed byte per component.
  it.each([
    ['IQ2_XXS', iq2xxsBook(), 2048, 1035247982],
    ['IQ2_XS', iq2xsBook(), 4096, 3958052829],
    ['IQ2_S', iq2sBook(), 8192, 2191003920],
    ['IQ3_XXS', iq3xxsBook(), 1024, 1235505205],
    ['IQ3_S', iq3sBook(), 2048, 1909222537],
    ['IQ1', iq1Book(), 16384, 803785678],
  ])('%s', (_, book, length, hash) => {
    expect(book.length).toBe(length);
    expect(fnv1a(book)).toBe(hash);
  });
});

describe('unblocked types', () => {
  it.each(['F8_E4M3', 'F8_E5M2', 'F8_E8M0'])('%s: every code', (type) => {
    const expected = fixture('fp8_tables.safetensors').floats(`${type}.table`);
    const codes = Uint8Array.from(expected, (_, code) => code);
    expect(dequantize(type, codes, codes.length)).toEqual(expected);
  });

  it('E8M0 code 255 is NaN', () => {
    expect(dequantize('F8_E8M0', Uint8Array.of(255), 1)[0]).toBeNaN();
  });

  const view = (a: ArrayBufferView) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
  it.each<[string, Uint8Array, number[]]>([
    ['F32', view(Float32Array.of(1.5, -Infinity, 3e-45)), [1.5, -Infinity, 3e-45]],
    ['F64', view(Float64Array.of(1 + 2 ** -30, -1e300)), [1, -Infinity]],
    ['I8', Uint8Array.of(0, 127, 128, 255), [0, 127, -128, -1]],
    ['U8', Uint8Array.of(0, 127, 128, 255), [0, 127, 128, 255]],
    ['I16', Uint8Array.of(255, 127, 0, 128), [32767, -32768]],
    ['U16', Uint8Array.of(255, 127, 0, 128), [32767, 32768]],
    ['I32', Uint8Array.of(255, 255, 255, 255, 4, 3, 2, 1), [-1, 0x01020304]],
    ['U32', Uint8Array.of(255, 255, 255, 255), [2 ** 32]],
    ['I64', view(BigInt64Array.of(-3n, 1n << 40n)), [-3, 2 ** 40]],
    ['U64', view(BigUint64Array.of(5n, 1n << 63n)), [5, 2 ** 63]],
    ['BOOL', Uint8Array.of(0, 1, 7), [0, 1, 1]],
  ])('%s', (type, bytes, expected) => {
    expect(dequantize(type, bytes, 1)).toEqual(Float32Array.from(expected));
  });

  it('binary16: all 65536 codes follow the definition and survive a round trip', () => {
    for (let code = 0; code < 65536; code++) {
      const sign = code & 0x8000 ? -1 : 1;
      const exponent = (code >> 10) & 31;
      const fraction = code & 1023;
      const value = f16ToF32(code);
      if (exponent === 31) {
        if (fraction) expect(value).toBeNaN();
        else if (value !== sign * Infinity || f32ToF16(value) !== code) throw new Error(`code ${code}`);
        continue;
      }
      const expected = exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * fraction * 2 ** -24;
      if (!Object.is(value, expected) || f32ToF16(value) !== code) throw new Error(`code ${code}: ${value}`);
    }
  });

  it('bfloat16: rounding to nearest never moves further than half a step', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, min: -(2 ** 126), max: 2 ** 126 }), (x) => {
        const error = Math.abs(bf16ToF32(f32ToBf16(x)) - x);
        return error <= Math.max(Math.abs(x) * 2 ** -8, 2 ** -134);
      }),
    );
  });
});

describe('dequantizeInto', () => {
  const blocked = quantTypes.filter((t) => oracle.has(`${t.name}.raw`));

  it('writes a tile at its place and nothing else', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...blocked),
        fc.nat(7),
        fc.nat(3),
        fc.nat(9),
        fc.nat(5),
        ({ name, blockSize, blockBytes }, first, blocks, outOffset, shift) => {
          const raw = oracle.bytes(`${name}.raw`);
          const all = dequantize(name, raw, blockSize);
          const moved = new Uint8Array(raw.length + shift);
          moved.set(raw, shift);
          const elements = blocks * blockSize;
          const out = new Float32Array(outOffset + elements + 3).fill(42);
          dequantizeInto(name, moved, shift + first * blockBytes, out, outOffset, elements);
          const expected = new Float32Array(out.length).fill(42);
          expected.set(all.subarray(first * blockSize, first * blockSize + elements), outOffset);
          expect(out).toEqual(expected);
        },
      ),
    );
  });

  it('refuses what does not fit', () => {
    const raw = new Uint8Array(36);
    const out = new Float32Array(64);
    expect(() => dequantizeInto('Q4_0', raw, 0, out, 0, 40)).toThrow(ShapeError);
    expect(() => dequantizeInto('Q4_0', raw, 0, out, 0, -32)).toThrow(ShapeError);
    expect(() => dequantizeInto('Q4_0', raw, 1, out, 0, 64)).toThrow(
      'expected 36 bytes at offset 1, got an array of 36',
    );
    expect(() => dequantizeInto('Q4_0', raw, -18, out, 0, 32)).toThrow(ShapeError);
    expect(() => dequantizeInto('Q4_0', raw, 0.5, out, 0, 32)).toThrow(ShapeError);
    expect(() => dequantizeInto('Q4_0', raw, Number.NaN, out, 0, 32)).toThrow(ShapeError);
    expect(() => dequantizeInto('Q4_0', raw, 0, out, 1, 64)).toThrow('expected room for 64 elements at offset 1');
    expect(() => dequantizeInto('Q4_0', raw, 0, out, 0, 64)).not.toThrow();
  });

  it('any bytes decode without an exception', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...quantTypes.filter((t) => !t.wholeTensor || t.blockSize > 1)),
        fc.infiniteStream(fc.nat(255)),
        ({ name, blockSize, blockBytes }, s) => {
          const bytes = Uint8Array.from({ length: blockBytes }, () => s.next().value as number);
          return dequantize(name, bytes, blockSize).length === blockSize;
        },
      ),
    );
  });
});

describe('dequantize checks lengths', () => {
  it('row length against the block size', () => {
    for (const rowLength of [0, -256, 128, 256.5, Number.NaN]) {
      expect(() => dequantize('Q4_K', new Uint8Array(144), rowLength)).toThrow(ShapeError);
    }
  });

  it('bytes against the row length', () => {
    expect(() => dequantize('Q4_K', new Uint8Array(145), 256)).toThrow(FormatError);
    expect(() => dequantize('Q4_K', new Uint8Array(144), 512)).toThrow('expected whole rows of 288 bytes, got 144');
    expect(dequantize('Q4_K', new Uint8Array(0), 256).length).toBe(0);
  });
});

describe('names', () => {
  it.each([
    ['Q4K', 'Q4_K'],
    ['q4_k', 'Q4_K'],
    ['q8_0', 'Q8_0'],
    ['Q80', 'Q8_0'],
    ['q2k', 'Q2_K'],
    ['iq4-nl', 'IQ4_NL'],
    ['bf16', 'BF16'],
    ['mxfp4', 'MXFP4'],
    ['f8_e4m3', 'F8_E4M3'],
    ['f8e5m2', 'F8_E5M2'],
    ['afq4', 'AFQ4'],
    ['AFQ4G32', 'AFQ4_G32'],
  ])('%s is %s', (alias, name) => {
    expect(quantFormat(alias).type.name).toBe(name);
  });

  it('no two types share a name', () => {
    const names = quantTypes.map((t) => t.name.toLowerCase());
    for (const { name, wholeTensor } of quantTypes) {
      if (wholeTensor) expect(tensorFormat(name.toLowerCase())?.name).toBe(name);
      else if (name === 'F8_E4M3') expect(quantFormat('f8_e4m3').type.name).toBe(name);
      else expect(quantFormat(name.replaceAll('_', '').toLowerCase()).type.name).toBe(name);
    }
    expect(new Set(names).size).toBe(names.length);
    expect(tensorFormat('fp8')?.name).toBe('F8E4M3');
  });

  it.each(['Q4_K_M', 'HQQ5', 'AFQ5', 'GROUPED', '', '__proto__'])('%j is unknown', (name) => {
    expect(() => quantFormat(name)).toThrow(UnsupportedError);
    expect(() => quantFormat(name)).toThrow('expected one of F32,');
  });

  it('sizes are those of the formats', () => {
    const bitsOf = Object.fromEntries(quantTypes.map((t) => [t.name, t.bitsPerWeight]));
    expect(bitsOf).toMatchObject({
      F32: 32,
      Q4_0: 4.5,
      Q2_K: 2.625,
      Q3_K: 3.4375,
      Q6_K: 6.5625,
      Q8_K: 9.125,
      MXFP4: 4.25,
      AFQ4: 5,
      HQQ4: 5,
    });
    expect(bitsOf['F8E4M3']).toBeCloseTo(8, 2);
  });
});
