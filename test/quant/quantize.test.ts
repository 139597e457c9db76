import { describe, expect, it } from 'vitest';
import { quantize, quantTypes } from '../../src/quant/index.ts';
import { fixture } from './fixture.ts';

const oracle = fixture('ggml_quantize.safetensors');
const inputs = oracle.names.filter((name) => name.startsWith('x.')).map((name) => name.slice(2));
const writable = quantTypes.filter((t) => t.writable && t.name !== 'F32').map((t) => t.name);

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
