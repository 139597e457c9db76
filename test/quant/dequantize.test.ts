import { describe, expect, it } from 'vitest';
import { STORAGE_TYPES } from '../../src/core/dtype.ts';
import { dequantize, quantFormat } from '../../src/quant/index.ts';
import { bits, fixture } from './fixture.ts';

const oracle = fixture('ggml_dequant.safetensors');
const types = oracle.names.filter((name) => name.endsWith('.raw')).map((name) => name.slice(0, -4));

describe('block formats decode to the floats of the reference implementation', () => {
  it.each(types)('%s', (type) => {
    const expected = oracle.floats(`${type}.f32`);
    const got = dequantize(type, oracle.bytes(`${type}.raw`), quantFormat(type).type.blockSize);
    expect(got.length).toBe(expected.length);
    expect(bits(got)).toEqual(bits(expected));
  });

  it('covers every GGUF type that packs several elements', () => {
    const inGguf = [...STORAGE_TYPES.values()].filter((t) => t.ggml !== undefined && t.blockSize > 1);
    const blocked = inGguf.map((t) => t.name);
    expect(types).toEqual(expect.arrayContaining(blocked));
    expect(types.length).toBe(28);
  });
});
