/** The arithmetic behind the benchmarks' tables. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { servingNotes, summarize } from '../../bench/peers/report.ts';
import { type Point, Results, ratioTable, short, table } from '../../bench/report.ts';
import { someTokens } from '../../bench/sample.ts';
import { trafficOf } from '../../bench/traffic.ts';

const rate = (value: number, more: Partial<Point> = {}): Point => ({
  benchmark: 'decode',
  unit: 'tokens/s',
  value,
  ...more,
});

describe('results', () => {
  it('rows are medians, with the share of the bandwidth of as many threads', () => {
    const results = new Results();
    for (const [threads, gb] of [
      [1, 20],
      [2, 30],
    ] as const) {
      results.add(threads, '', { benchmark: 'memory', unit: 'GB/s', value: gb, bytesPerSecond: gb * 1e9 });
      for (const value of [10, 40, 11, 12]) {
        results.add(threads, 'a', rate(value, { cpuMs: 1000 / value, bytesPerSecond: value * 1e9 }));
      }
    }
    const [, one, , two] = results.rows('memory');
    expect(one).toMatchObject({ benchmark: 'decode', threads: 1, median: 11.5, min: 10, max: 40, repetitions: 4 });
    expect(one?.gbPerSecond).toBe(11.5);
    expect(one?.shareOfBandwidth).toBeCloseTo(11.5 / 20, 12);
    expect(two?.shareOfBandwidth).toBeCloseTo(11.5 / 30, 12);
    expect(one?.cpuMs).toBeCloseTo((1000 / 11 + 1000 / 12) / 2, 12);
    expect(one?.gflops).toBeUndefined();
    const text = table(results.rows('memory'));
    expect(text.split('\n')).toHaveLength(6);
    expect(text).toContain('| decode | 1 | 11.5 tokens/s | 10.0–40.0 | 87.1 | 11.5 | 57 % | – |');
  });

  it('ratios pair the repetitions, and are above one where the first build is better', () => {
    const results = new Results();
    for (const [a, b] of [
      [20, 10],
      [30, 10],
      [10, 10],
    ] as const) {
      results.add(1, 'a', rate(a, { cpuMs: 1 / a, checksum: 5 }));
      results.add(1, 'b', rate(b, { cpuMs: 1 / b, checksum: 5 }));
      results.add(1, 'a', { benchmark: 'load', unit: 's', value: a, lowerIsBetter: true, checksum: a });
      results.add(1, 'b', { benchmark: 'load', unit: 's', value: b, lowerIsBetter: true, checksum: b });
    }
    const [decode, load] = results.ratios('a', 'b');
    expect(decode).toEqual({ ...decode, median: 2, min: 1, max: 3, sameResults: true });
    expect(decode?.cpu).toBeCloseTo(2, 12);
    expect(load).toMatchObject({ median: 0.5, max: 1, cpu: undefined, sameResults: false });
    const text = ratioTable(results.ratios('a', 'b'), 'a', 'b');
    expect(text).toContain('| decode | 1 | 2.00 × | 1.00–3.00 | 2.00 × | equal |');
    expect(text).toContain('| load | 1 | 0.50 × | 0.33–1.00 | – | differ |');
  });

  it('numbers are shown with three digits', () => {
    expect([1234.5, 99.96, 12.34, 1.234, 0.01234, 0].map(short)).toEqual([
      '1235',
      '100.0',
      '12.3',
      '1.23',
      '0.012',
      '0.00',
    ]);
  });
});

describe('traffic', () => {
  it('of the embedded model: every matrix once, and the keys and values of a position', async () => {
    const file = fileURLToPath(new URL('../../models/smollm2-135m-instruct-q4_1.gguf', import.meta.url));
    const { modelBytes, weightBytes, parameters, cacheBytes } = await trafficOf(file);
    const [layers, hidden, inner, vocabulary, kv] = [30, 576, 1536, 49152, 192];
    const layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner;
    expect(parameters).toBe(layers * layer + vocabulary * hidden);
    expect(weightBytes).toBe((layers * layer * 20) / 32 + (vocabulary * hidden * 34) / 32);
    expect(modelBytes - weightBytes).toBe((2 * layers + 1) * hidden * 4);
    expect(cacheBytes % (layers * 2 * kv)).toBe(0);
  });

  it('of a model with experts and a head of its own: only what a token meets', async () => {
    const folder = fileURLToPath(new URL('../fixtures/models/qwen3_moe', import.meta.url));
    const { modelBytes, weightBytes } = await trafficOf(folder);
    expect(weightBytes).toBeGreaterThan(0);
    expect(weightBytes).toBeLessThan(modelBytes);
  });
});

describe('prompts', () => {
  it('repeat exactly, stay within the vocabulary and differ from their first tokens on', () => {
    expect(someTokens(1000, 64, 3)).toEqual(someTokens(1000, 64, 3));
    expect(Math.max(...someTokens(100, 5000, 1))).toBe(99);
    const beginnings = new Set(Array.from({ length: 200 }, (_, seed) => someTokens(49152, 2, seed).join()));
    expect(beginnings.size).toBe(200);
  });
});

describe('requests at a time', () => {
  const row = (peer: string, serving: Record<string, number>, more = {}) => ({
    ...{ peer, threads: 2, round: 0, wall_s: 1, own_cores: 1, serving, ...more },
  });
  const summary = summarize(
    [
      row('a', { 1: 100, 8: 190 }, { serving_step_ms: { 1: 10, 8: 20 }, prefix_speedup: 9 }),
      row('b', { 1: 50, 8: 60 }),
      row('a', { 1: 110, 8: 210 }, { serving_step_ms: { 1: 10, 8: 20 }, prefix_speedup: 11 }),
    ],
    'b',
  );

  it('are compared with the reference peer', () => {
    const [a] = summary;
    expect(a?.figures).toMatchObject({ requests1_tps: 105, requests8_tps: 200, prefix_speedup: 10 });
    expect(a?.ratios['requests8_tps']).toBeCloseTo(200 / 60, 12);
    expect(a?.ratios['prefix_speedup']).toBeUndefined();
  });

  it('tell what many gain over one, and the share of the engine in a step', () => {
    expect(servingNotes(summary, { 1: 0.01, 8: 0.02 })).toEqual([
      'a, 2 threads: tokens/s of requests at a time against one: 8: 1.90 ×',
      "a, 2 threads: the engine's own work in a step: 1: 10.0 µs, 0.100 %; 8: 20.0 µs, 0.100 %",
      'b, 2 threads: tokens/s of requests at a time against one: 8: 1.20 ×',
    ]);
  });
});
