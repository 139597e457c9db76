/** Runners that share a back-end take turns: their steps do not meet, and each gives what it gives alone. */
import { describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend } from '../../src/core/backend.ts';
import type { Engine } from '../../src/core/engine/engine.ts';
import { Turns } from '../../src/core/turns.ts';
import { letters } from '../e2e/tiny.ts';
import { openWebGpu } from '../webgpu/support.ts';
import { engineOn } from './tinyEngine.ts';

const [a, b] = [{}, {}];

describe('turns', () => {
  it('go on at once for one party, whose steps may overlap', () => {
    const turns = new Turns();
    expect([turns.begin(a), turns.begin(a), turns.contended(a)]).toEqual([undefined, undefined, false]);
    turns.end();
    turns.end();
    expect(turns.begin(a)).toBeUndefined();
  });

  it('change in the order of asking, when all steps have ended and their results have been used', async () => {
    const turns = new Turns();
    const log: string[] = [];
    const step = async (party: object, name: string) => {
      const turn = turns.begin(party);
      if (turn) await turn;
      log.push(`${name} begins`);
      await Promise.resolve();
      turns.end();
      // Somebody who awaits the step, some promises further on.
      for (let i = 0; i < 20; i++) await Promise.resolve();
      log.push(`${name} is used`);
    };
    turns.begin(a);
    const all = [step(b, 'b1'), step(a, 'a1'), step(b, 'b2')];
    expect([turns.contended(a), turns.contended(b)]).toEqual([true, true]);
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(log).toEqual([]);
    turns.end();
    await Promise.all(all);
    expect(log).toEqual(['b1', 'a1', 'b2'].flatMap((name) => [`${name} begins`, `${name} is used`]));
    expect([turns.contended(a), turns.contended(b)]).toEqual([true, false]);
    expect(turns.begin(b)).toBeUndefined();
  });
});

const candidates: readonly { readonly name: string; readonly create: () => Promise<Backend | string> }[] = [
  { name: 'reference', create: async () => new ReferenceBackend() },
  { name: 'cpu, one thread', create: () => createCpuBackend({ threads: 1 }) },
  { name: 'cpu, two threads', create: () => createCpuBackend({ threads: 2 }) },
  { name: 'webgpu', create: openWebGpu },
];

describe.each(candidates)('two engines on one back-end: $name', ({ name, create }) => {
  it('give what they give alone, and neither waits for the other to finish', { timeout: 120_000 }, async ({ skip }) => {
    const backend = await create();
    if (typeof backend === 'string') {
      console.warn(`two engines on ${name}: skipped: ${backend}`);
      return skip(backend);
    }
    const pair = [await engineOn(backend), await engineOn(backend)];
    // The most likely tokens need the largest logits only, sampled ones with their probabilities whole rows.
    const requests = [
      { sampling: { topK: 1, maxLen: 30 } },
      { sampling: { temperature: 1, maxLen: 30 }, logprobs: true, seed: 5 },
    ];
    const order: number[] = [];
    const run = async (which: number, request: (typeof requests)[number]): Promise<string> => {
      const engine: Engine = pair[which]!.engine;
      const tokens: number[] = [];
      for await (const event of engine.submit({ prompt: letters(9 + 20 * which, which), ...request })) {
        if (event.kind !== 'token') continue;
        tokens.push(event.token);
        order.push(which);
      }
      return tokens.join(' ');
    };
    for (const request of requests) {
      const alone = [await run(0, request), await run(1, request)];
      order.length = 0;
      expect(await Promise.all([run(0, request), run(1, request)])).toEqual(alone);
      const changes = order.filter((which, i) => i > 0 && which !== order[i - 1]).length;
      expect(changes).toBeGreaterThan(10);
    }
    for (const { close } of pair) await close();
    expect(backend.memory().persistent).toBe(0);
    await backend.dispose();
  });
});
