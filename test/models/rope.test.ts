/** Cosines and sines against the reference implementation, far positions included. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ConfigError } from '../../src/core/errors.ts';
import type { Rope } from '../../src/core/model.ts';
import * as s from '../../src/core/schema.ts';
import { createRope, ropeFields, ropeSpec, wholeRopeSpec } from '../../src/models/blocks/rope.ts';
import { fixtures } from './harness.ts';

interface Case {
  readonly name: string;
  readonly arch: 'Llama' | 'Phi3';
  readonly config: Readonly<Record<string, unknown>> & { readonly head_dim: number };
  readonly length: number;
  readonly positions: readonly number[];
  readonly cos: readonly (readonly number[])[];
  readonly sin: readonly (readonly number[])[];
}

const cases = JSON.parse(readFileSync(new URL('rope.json', fixtures), 'utf8')) as readonly Case[];
const config = s.object(ropeFields);
const parse = (raw: unknown) => config.parse(raw, '');

/** Two roundings of float32 values up to 1.35: frequencies are equal to the bit. */
const TOLERANCE = 2e-7;

describe('rotary embeddings', () => {
  it.each(cases)('$name', (c) => {
    const spec = (c.arch === 'Llama' ? wholeRopeSpec : ropeSpec)(parse(c.config));
    const rope = createRope(spec, c.config.head_dim);
    const pairs = c.cos[0]!.length;
    expect(rope.rotaryDim).toBe(2 * pairs);
    const out = new Float32Array(3 + rope.rotaryDim);
    for (const [i, position] of c.positions.entries()) {
      rope.fill(out, 3, position, c.length);
      for (let j = 0; j < pairs; j++) {
        expect(Math.abs(out[3 + j]! - c.cos[i]![j]!)).toBeLessThan(TOLERANCE);
        expect(Math.abs(out[3 + pairs + j]! - c.sin[i]![j]!)).toBeLessThan(TOLERANCE);
      }
    }
    expect([...out.subarray(0, 3)]).toEqual([0, 0, 0]);
  });

  const made = (raw: Record<string, unknown>, headDim = 16) => createRope(ropeSpec(parse(raw)), headDim);

  it('is shared by equal settings, however they are written', () => {
    const older = made({ rope_theta: 5000, rope_scaling: { type: 'linear', factor: 2 } });
    const newer = made({ rope_parameters: { rope_type: 'linear', rope_theta: 5000, factor: 2 } });
    expect(rotated(older)).toEqual(rotated(newer));
    expect(made({ rope_theta: 5000 }).key).toBe(made({ rope_theta: 5000 }).key);
    expect(made({ rope_theta: 5000 }).key).not.toBe(made({ rope_theta: 5001 }).key);
    expect(made({ rope_theta: 5000 }).key).not.toBe(made({ rope_theta: 5000 }, 32).key);
  });

  it('says how far it reaches, and beyond which length every length differs', () => {
    const dynamic = { max_position_embeddings: 16, rope_scaling: { type: 'dynamic', factor: 2.5 } };
    expect(made(dynamic)).toMatchObject({ growsBeyond: 16, maxPositions: 40, switchLength: undefined });
    expect(rotated(made(dynamic), 15)).toEqual(rotated(made(dynamic), 16));
    expect(rotated(made(dynamic), 16)).not.toEqual(rotated(made(dynamic), 17));
    expect(made({ max_position_embeddings: 16 })).toMatchObject({ growsBeyond: undefined, maxPositions: undefined });
  });

  it('says beyond which length a sequence has to start over', () => {
    const factors = { short_factor: Array(8).fill(1), long_factor: Array(8).fill(2) };
    const long = { rope_scaling: { type: 'longrope', original_max_position_embeddings: 24, ...factors } };
    expect(made(long).switchLength).toBe(24);
    expect(rotated(made(long), 24)).not.toEqual(rotated(made(long), 25));
    const same = { rope_scaling: { ...long.rope_scaling, long_factor: factors.short_factor } };
    expect(made(same).switchLength).toBeUndefined();
    expect(made({}).switchLength).toBeUndefined();
  });

  it('forgets nothing between sequences of different length', () => {
    const rope = made({ max_position_embeddings: 16, rope_scaling: { rope_type: 'dynamic', factor: 2 } });
    const first = rotated(rope, 40);
    expect(rotated(rope, 8)).not.toEqual(first);
    expect(rotated(rope, 40)).toEqual(first);
  });

  it.each([
    [{ rope_scaling: { rope_type: 'axial' } }, /rope_scaling\.rope_type: expected default .* got "axial"/],
    [
      { rope_scaling: { type: 'linear' } },
      /rope_scaling\.factor: expected a value for the rotation "linear", got nothing/,
    ],
    [{ rope_parameters: { rope_type: 'llama3', factor: 8 } }, /rope_parameters\.low_freq_factor/],
    [
      { rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1] } },
      /short_factor: expected 8 numbers, got 1/,
    ],
    [{ partial_rotary_factor: 1.5 }, /at most 16 dimensions of each head, got 24/],
    [{ rope_parameters: { full_attention: { rope_theta: 1 } } }, /one rotation for all layers/],
    [{ rope_parameters: [1] }, /rope_parameters: expected an object, got \[1\]/],
  ])('refuses %j', (raw, message) => {
    expect(() => made(raw)).toThrow(message);
    expect(() => made(raw)).toThrow(ConfigError);
  });
});

function rotated(rope: Rope, length = 8): readonly number[] {
  const out = new Float32Array(rope.rotaryDim);
  rope.fill(out, 0, 7, length);
  return [...out];
}
