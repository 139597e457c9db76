import { describe, expect, it } from 'vitest';
import type { Kernel } from '../../src/backends/cpu/kernel.ts';
import { allGluKernels, gluKernels } from '../../src/backends/cpu/kernels/glu.ts';
import { groupNorm, norm } from '../../src/backends/cpu/kernels/norm.ts';
import { rope } from '../../src/backends/cpu/kernels/rope.ts';
import { softmax } from '../../src/backends/cpu/kernels/softmax.ts';
import { bench, bits, DATA, random, SIMD } from './support.ts';

const ROOM = 16384;
const [X, Y, W, B, OUT] = [DATA + 4, DATA + ROOM + 8, DATA + 2 * ROOM, DATA + 3 * ROOM + 12, DATA + 4 * ROOM + 4];
const b = bench([...allGluKernels, norm, groupNorm, rope, softmax] as Kernel[], SIMD, 5 * ROOM);
const next = random(11);
const values = (n: number) => Float32Array.from({ length: n }, () => (next() - 0.5) * 6);

/** Fills the inputs, runs kernel and twin, compares the bits of `n` floats at each of `outputs`, returns them. */
function same<K extends Kernel>(
  kernel: K,
  inputs: readonly (readonly [number, Float32Array])[],
  args: Parameters<typeof b.wasm<K>>[1],
  nt: number,
  outputs: readonly number[],
  n: number,
): Float32Array[] {
  const results = [b.wasm, b.twin].map((run) => {
    for (const at of outputs) b.views.f32.fill(7, at / 4 - 1, at / 4 + n + 4);
    for (const [at, data] of inputs) b.views.f32.set(data, at / 4);
    run(kernel, args, nt);
    return outputs.map((at) => bits(b.views, at - 4, n + 5));
  });
  expect(results[0]).toEqual(results[1]);
  return outputs.map((at) => b.views.f32.slice(at / 4, at / 4 + n));
}

const close = (got: ArrayLike<number>, want: ArrayLike<number>, digits = 5) => {
  for (let i = 0; i < want.length; i++) expect(got[i], `element ${i}`).toBeCloseTo(want[i]!, digits);
};

describe('norm', () => {
  const sizes = [1, 2, 3, 4, 5, 15, 16, 17, 31, 64, 70, 100];
  it('gives the bits of its twin and the right numbers', () => {
    for (const n of sizes) {
      for (const [groups, centre, weighted, biased, added] of [
        [1, 0, 1, 0, 0],
        [2, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
        [3, 0, 0, 1, 1],
      ] as const) {
        const parts = 2 * groups;
        const [x, add, weight, bias] = [values(parts * n), values(parts * n), values(groups * n), values(groups * n)];
        const args = {
          ...{ out: OUT, x: X, add: added && Y, weight: weighted && W, bias: biased && B, parts, n, groups, centre },
          ...{ eps: 1e-2, divisor: n, plus: 1 },
        };
        const inputs = [
          [X, x],
          [Y, add],
          [W, weight],
          [B, bias],
        ] as const;
        const [got] = same(norm, inputs, args, 1 + (n % 3), [OUT], parts * n);
        const row = (p: number) => Array.from({ length: n }, (_, i) => x[p * n + i]! + (added ? add[p * n + i]! : 0));
        const want = Array.from({ length: parts }, (_, p) => {
          const r = row(p);
          const mean = centre ? r.reduce((s, v) => s + v, 0) / n : 0;
          const scale = 1 / Math.sqrt(r.reduce((s, v) => s + (v - mean) ** 2, 0) / n + 1e-2);
          return r.map((v, i) => {
            const at = (p % groups) * n + i;
            return (v - mean) * scale * (weighted ? weight[at]! + 1 : 1) + (biased ? bias[at]! : 0);
          });
        });
        close(got!, want.flat(), 4);
      }
    }
  });

  it('norms groups of channels', () => {
    for (const [batch, groups, channels, plane] of [
      [2, 2, 3, 5],
      [1, 1, 1, 17],
      [3, 1, 4, 16],
    ] as const) {
      const n = channels * plane;
      const parts = batch * groups;
      const [x, weight, bias] = [values(parts * n), values(groups * channels), values(groups * channels)];
      const args = { out: OUT, x: X, weight: W, bias: B, parts, groups, channels, plane, eps: 1e-2, plus: 0 };
      const [got] = same(
        groupNorm,
        [
          [X, x],
          [W, weight],
          [B, bias],
        ],
        args,
        2,
        [OUT],
        parts * n,
      );
      const want = Array.from({ length: parts }, (_, p) => {
        const part = Array.from(x.subarray(p * n, (p + 1) * n));
        const mean = part.reduce((s, v) => s + v, 0) / n;
        const scale = 1 / Math.sqrt(part.reduce((s, v) => s + (v - mean) ** 2, 0) / n + 1e-2);
        return part.map((v, i) => {
          const channel = (p % groups) * channels + Math.floor(i / plane);
          return (v - mean) * scale * weight[channel]! + bias[channel]!;
        });
      });
      close(got!, want.flat(), 4);
    }
  });
});

describe('softmax', () => {
  it('gives the bits of its twin and probabilities', () => {
    for (const width of [1, 2, 3, 4, 7, 16, 33, 100]) {
      for (const masked of [0, 1, 2]) {
        const rows = 3;
        const x = values(rows * width);
        const mask = values(rows * width);
        if (masked) mask.fill(-Infinity, width - 1, width);
        const args = {
          out: OUT,
          x: X,
          mask: masked && Y,
          maskRow: masked === 2 ? width * 4 : 0,
          rows,
          width,
          scale: 0.5,
        };
        const [got] = same(
          softmax,
          [
            [X, x],
            [Y, mask],
          ],
          args,
          2,
          [OUT],
          rows * width,
        );
        for (let r = 0; r < rows; r++) {
          const e = Array.from({ length: width }, (_, i) => {
            const extra = masked ? mask[(masked === 2 ? r * width : 0) + i]! : 0;
            return Math.exp(x[r * width + i]! * 0.5 + extra);
          });
          const total = e.reduce((s, v) => s + v, 0);
          close(
            got!.subarray(r * width, (r + 1) * width),
            e.map((v) => (total ? v / total : 0)),
            6,
          );
        }
      }
    }
  });
});

describe('glu', () => {
  const exact: Record<string, (g: number) => number> = {
    silu: (g) => g / (1 + Math.exp(-g)),
    relu: (g) => Math.max(g, 0),
    geluQuick: (g) => g / (1 + Math.exp(-1.702 * g)),
  };
  it.each(Object.keys(gluKernels) as (keyof typeof gluKernels)[])('%s', (name) => {
    for (const width of [1, 2, 3, 4, 6, 9, 37]) {
      for (const [rows, nt] of [
        [1, 1],
        [1, 3],
        [4, 2],
      ] as const) {
        for (const interleaved of [0, 1]) {
          const x = values(rows * width * 2);
          const args = { out: OUT, x: X, rows, width, interleaved, alpha: 1.702, limit: 1.5 };
          const [got] = same(gluKernels[name], [[X, x]], args, nt, [OUT], rows * width);
          const want = Array.from({ length: rows * width }, (_, i) => {
            const at = Math.floor(i / width) * 2 * width;
            const gate = x[at + (interleaved ? 2 * (i % width) : i % width)]!;
            const up = x[at + (interleaved ? 2 * (i % width) + 1 : width + (i % width))]!;
            if (name !== 'clamped') return exact[name] ? exact[name](gate) * up : undefined;
            const g = Math.min(gate, 1.5);
            return (g / (1 + Math.exp(-1.702 * g))) * (Math.min(Math.max(up, -1.5), 1.5) + 1);
          });
          if (want[0] !== undefined) close(got!, want as number[]);
        }
      }
    }
  });
});

describe('rope', () => {
  it('gives the bits of its twin and a rotation', () => {
    for (const [half, headDim] of [
      [1, 2],
      [2, 5],
      [4, 8],
      [6, 12],
      [16, 32],
      [19, 40],
    ] as const) {
      for (const interleaved of [0, 1]) {
        const [rows, heads] = [3, 2];
        const x = values(rows * heads * headDim);
        const angles = values(rows * half);
        const cosSin = new Float32Array(rows * 2 * half);
        angles.forEach((a, i) => {
          const at = Math.floor(i / half) * 2 * half + (i % half);
          cosSin[at] = Math.cos(a);
          cosSin[at + half] = Math.sin(a);
        });
        const args = { x: X, cosSin: Y, rows, heads, headDim, half, interleaved };
        const [got] = same(
          rope,
          [
            [X, x],
            [Y, cosSin],
          ],
          args,
          2,
          [X],
          x.length,
        );
        for (let unit = 0; unit < rows * heads; unit++) {
          for (let i = 0; i < half; i++) {
            const angle = angles[Math.floor(unit / heads) * half + i]!;
            const [p, q] = interleaved ? [2 * i, 2 * i + 1] : [i, half + i];
            const [a, c] = [x[unit * headDim + p]!, x[unit * headDim + q]!];
            expect(got![unit * headDim + p]).toBeCloseTo(a * Math.cos(angle) - c * Math.sin(angle), 5);
            expect(got![unit * headDim + q]).toBeCloseTo(c * Math.cos(angle) + a * Math.sin(angle), 5);
          }
          for (let i = 2 * half; i < headDim; i++) expect(got![unit * headDim + i]).toBe(x[unit * headDim + i]);
        }
      }
    }
  });
});
