import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BatchBuilder } from '../../src/core/engine/batch.ts';
import { BlockPool } from '../../src/core/engine/blocks.ts';
import { Scheduler, type SchedulerOptions } from '../../src/core/engine/scheduler.ts';
import { type Sequence, SequenceGroup } from '../../src/core/engine/sequence.ts';
import { StatePool } from '../../src/core/engine/states.ts';
import { FakeModel, greedyAfter, logitsAfter } from './fakeModel.ts';

const VOCAB = 16;

interface Wanted {
  readonly prompt: number[];
  readonly count: number;
  readonly choices: number;
  readonly raw: boolean;
}

/** Runs requests through scheduler, batches and the fake model, and checks every step. */
class Simulation {
  readonly model: FakeModel;
  readonly pool: BlockPool;
  readonly states: StatePool | undefined;
  readonly scheduler: Scheduler;
  readonly options: SchedulerOptions;
  readonly #batches: BatchBuilder;
  readonly live = new Map<SequenceGroup, Wanted>();
  readonly parked = new Set<SequenceGroup>();
  readonly finished = new Map<SequenceGroup, number[][]>();
  readonly #rawRows = new Map<SequenceGroup, number>();
  arrivals = 0;
  steps = 0;
  longestWait = 0;

  constructor(blocks: number, blockSize: number, options: Partial<SchedulerOptions> = {}, stateSlots = 0) {
    this.options = {
      maxNumSeqs: 8,
      maxRows: 16,
      maxSequences: 8,
      maxLogitRows: 16,
      prefixCache: true,
      ...options,
    };
    this.model = new FakeModel({
      ...this.options,
      vocabSize: VOCAB,
      blocks,
      blockSize,
      stateSlots,
      contextLength: blocks * blockSize,
    });
    this.states = stateSlots > 0 ? new StatePool(stateSlots, blocks) : undefined;
    this.pool = new BlockPool(blocks, blockSize);
    this.scheduler = new Scheduler(this.pool, this.options, this.states);
    this.#batches = new BatchBuilder({ ...this.options, maxBlocks: blocks, blockSize }, this.states);
  }

  add(wanted: Wanted): SequenceGroup {
    const group = new SequenceGroup(this.arrivals++, wanted.prompt, this.pool.blockSize, wanted);
    this.live.set(group, wanted);
    this.scheduler.add(group);
    return group;
  }

  cancel(group: SequenceGroup): void {
    this.scheduler.remove(group);
    this.live.delete(group);
    this.parked.delete(group);
  }

  /** Only requests that have begun to answer have a reader that can be slow. */
  park(group: SequenceGroup): void {
    const first = group.sequences[0]!;
    if (group.raw || this.parked.has(group) || first.length === first.promptLength) return;
    this.scheduler.park(group);
    this.parked.add(group);
  }

  unpark(group: SequenceGroup): void {
    if (this.parked.delete(group)) this.scheduler.unpark(group);
  }

  /** False when there was nothing to run. */
  async step(): Promise<boolean> {
    const plan = this.scheduler.schedule();
    this.check();
    if (plan.count === 0) return false;
    this.steps++;
    const logits = await this.model.forward(this.#batches.build(plan));
    this.scheduler.commit(plan);
    let row = 0;
    for (let i = 0; i < plan.count; i++) {
      const sequence = plan.sequences[i]!;
      if (plan.wanted[i] === 0) continue;
      if (sequence.group.raw) {
        this.#takeRaw(sequence, plan.rowCounts[i]!, logits.subarray(row * VOCAB));
        row += plan.rowCounts[i]!;
        continue;
      }
      const view = logits.subarray(row * VOCAB, ++row * VOCAB);
      this.#sample(sequence, view.indexOf(Math.max(...view)));
    }
    return true;
  }

  #sample(sequence: Sequence, token: number): void {
    const { group } = sequence;
    const started = sequence.index === 0 && sequence.length === sequence.promptLength;
    if (started) this.scheduler.fork(group);
    for (const s of started ? group.sequences : [sequence]) {
      s.append(token);
      if (s.length - s.promptLength === this.live.get(group)!.count) this.scheduler.finish(s);
    }
    if (group.sequences.every((s) => s.status === 'finished')) {
      this.#complete(
        group,
        group.sequences.map((s) => [...s.tokens.subarray(s.promptLength, s.length)]),
      );
    }
  }

  #takeRaw(sequence: Sequence, rows: number, logits: Float32Array): void {
    const { group } = sequence;
    for (let i = 0; i < rows; i++) {
      const position = sequence.computed - rows + i;
      const expected = logitsAfter(sequence.tokens.subarray(0, position + 1), VOCAB);
      expect(logits.subarray(i * VOCAB, (i + 1) * VOCAB)).toEqual(expected);
    }
    this.#rawRows.set(group, Math.max(this.#rawRows.get(group) ?? 0, sequence.computed));
    if (sequence.pending > 0) return;
    this.scheduler.finish(sequence);
    this.#complete(group, []);
  }

  #complete(group: SequenceGroup, tokens: number[][]): void {
    const wanted = this.live.get(group)!;
    const expected = wanted.raw ? [] : greedyAfter(wanted.prompt, wanted.count, VOCAB);
    for (const answer of tokens) expect(answer).toEqual(expected);
    this.finished.set(group, tokens);
    this.live.delete(group);
  }

  check(): void {
    const { plan } = this.scheduler;
    expect(plan.rows).toBeLessThanOrEqual(this.options.maxRows);
    expect(plan.count).toBeLessThanOrEqual(this.options.maxSequences);
    expect(plan.logitRows).toBeLessThanOrEqual(this.options.maxLogitRows);
    for (let i = 0; i < plan.count && this.options.wholePrompts; i++) {
      expect(plan.before[i]! + plan.rowCounts[i]!).toBeGreaterThanOrEqual(plan.sequences[i]!.promptLength);
    }
    const held = new Map<number, number>();
    const slots: number[] = [];
    let active = 0;
    let width = this.options.maxNumSeqs;
    for (const group of this.live.keys()) {
      if (group.sequences.some((s) => s.status === 'running')) width = Math.max(width, group.size);
      for (const s of group.sequences) {
        if (s.status === 'running' || s.status === 'reserved') active++;
        if (s.status === 'running') this.longestWait = Math.max(this.longestWait, s.passedOver);
        else expect([s.blockCount, s.slot]).toEqual([0, -1]);
        if (s.slot >= 0) slots.push(s.slot);
        expect(s.computed).toBeLessThanOrEqual(s.length);
        for (let i = 0; i < s.blockCount; i++) held.set(s.blocks[i]!, (held.get(s.blocks[i]!) ?? 0) + 1);
      }
    }
    expect(this.scheduler.active).toBe(active);
    expect(active).toBeLessThanOrEqual(width);
    expect(this.states?.held ?? 0).toBe(slots.length);
    expect(new Set(slots).size).toBe(slots.length);
    expect(this.pool.used).toBe(held.size);
    expect(this.pool.free + this.pool.used).toBe(this.pool.total);
    for (const [block, count] of held) expect(this.pool.references(block)).toBe(count);
  }

  /** Runs until nothing is left; the bound makes a request that never ends a failure. */
  async drain(bound = 20000): Promise<void> {
    for (const group of [...this.parked]) this.unpark(group);
    while (await this.step()) expect(this.steps).toBeLessThan(bound);
    expect(this.live.size).toBe(0);
    expect(this.pool.used).toBe(0);
    expect(this.states?.held ?? 0).toBe(0);
    expect(this.scheduler.active + this.scheduler.queued + this.scheduler.interrupted).toBe(0);
  }
}

const wanted: fc.Arbitrary<Wanted> = fc.record({
  // Few different tokens, so that prompts share beginnings.
  prompt: fc.array(fc.nat(1), { minLength: 1, maxLength: 40 }),
  count: fc.integer({ min: 1, max: 24 }),
  choices: fc.oneof(
    { weight: 5, arbitrary: fc.constant(1) },
    { weight: 1, arbitrary: fc.integer({ min: 2, max: 11 }) },
  ),
  raw: fc.constant(false),
});
const rawWanted: fc.Arbitrary<Wanted> = wanted.map((w) => ({ ...w, choices: 1, raw: true }));
const action = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('add' as const), wanted }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('add' as const), wanted: rawWanted }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('cancel' as const), which: fc.nat(50) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('park' as const), which: fc.nat(50) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('unpark' as const), which: fc.nat(50) }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('steps' as const), count: fc.integer({ min: 1, max: 12 }) }) },
);

describe('random lives', () => {
  it('every request ends with the tokens it would have alone; nothing leaks; no budget is exceeded', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          blocks: fc.integer({ min: 17, max: 60 }),
          maxRows: fc.constantFrom(1, 3, 7, 16, 64),
          maxSequences: fc.constantFrom(1, 3, 8),
          maxLogitRows: fc.constantFrom(1, 4, 16),
          maxNumSeqs: fc.constantFrom(1, 4, 8),
          prefixCache: fc.boolean(),
          stateSlots: fc.constantFrom(0, 0, 1, 2, 5, 9, 20),
        }),
        fc.array(action, { maxLength: 60 }),
        async ({ blocks, stateSlots, ...options }, actions) => {
          const sim = new Simulation(blocks, 4, options, stateSlots);
          for (const a of actions) {
            const groups = [...sim.live.keys()];
            if (a.kind === 'add') sim.add(a.wanted);
            else if (a.kind === 'steps') for (let i = 0; i < a.count; i++) await sim.step();
            else if (groups.length > 0) sim[a.kind](groups[a.which % groups.length]!);
          }
          await sim.drain();
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('whole prompts', () => {
  it('each runs in one step, none is starved, and answers stay as they are', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          blocks: fc.integer({ min: 17, max: 60 }),
          maxRows: fc.constantFrom(3, 16, 40, 64),
          maxSequences: fc.constantFrom(1, 3, 8),
          maxLogitRows: fc.constantFrom(1, 4, 64),
          maxNumSeqs: fc.constantFrom(1, 4, 8),
          stateSlots: fc.constantFrom(0, 0, 2, 9),
        }),
        fc.array(action, { maxLength: 40 }),
        async ({ blocks, stateSlots, ...options }, actions) => {
          const sim = new Simulation(blocks, 4, { ...options, prefixCache: false, wholePrompts: true }, stateSlots);
          const most = (raw: boolean) => Math.min(options.maxRows, raw ? options.maxLogitRows : options.maxRows);
          for (const a of actions) {
            const groups = [...sim.live.keys()];
            if (a.kind === 'add') sim.add({ ...a.wanted, prompt: a.wanted.prompt.slice(0, most(a.wanted.raw)) });
            else if (a.kind === 'steps') for (let i = 0; i < a.count; i++) await sim.step();
            else if (groups.length > 0) sim[a.kind](groups[a.which % groups.length]!);
          }
          await sim.drain();
        },
      ),
      { numRuns: 150 },
    );
  });

  it('decoding makes room for one that fills a step', async () => {
    const sim = new Simulation(400, 4, { prefixCache: false, wholePrompts: true });
    for (const seed of [3, 5, 7]) sim.add(one(letters(3, seed), 60));
    await sim.step();
    const full = sim.add(one(letters(sim.options.maxRows), 1)).sequences[0]!;
    for (let i = 0; i < 12; i++) await sim.step();
    expect(full.status).toBe('finished');
    await sim.drain();
  });
});

const letters = (n: number, seed = 1) =>
  Array.from({ length: n }, (_, i) => (Math.imul(i + 1, seed * 2654435761) >>> 28) % VOCAB);
const one = (prompt: number[], count: number): Wanted => ({ prompt, count, choices: 1, raw: false });

describe('fairness', () => {
  it('a short prompt is not kept waiting by long ones, and long ones are not starved by short ones', async () => {
    const sim = new Simulation(400, 4, { prefixCache: false });
    const long = sim.add(one(letters(300), 2));
    await sim.step();
    const short = sim.add(one(letters(10, 3), 2));
    await sim.step();
    expect(short.sequences[0]!.length).toBe(11);
    // A stream of short prompts that alone would fill every step.
    let n = 5;
    while (sim.live.has(long)) {
      sim.add(one(letters(16, n++), 1));
      await sim.step();
      expect(sim.steps).toBeLessThan(400);
    }
    await sim.drain();
    expect(sim.longestWait).toBeLessThanOrEqual(8 + sim.options.maxNumSeqs);
  });

  it('decoding goes on in every step beside a long prompt', async () => {
    const sim = new Simulation(400, 4);
    const decoding = [3, 5, 7].map((seed) => sim.add(one(letters(3, seed), 60)));
    await sim.step();
    sim.add(one(letters(320), 1));
    for (let i = 0; i < 20; i++) {
      const before = decoding.map((g) => g.sequences[0]!.length);
      await sim.step();
      expect(decoding.map((g) => g.sequences[0]!.length)).toEqual(before.map((n) => n + 1));
      expect(sim.scheduler.plan.rows).toBe(16);
    }
    await sim.drain();
  });

  it('decoding gets every other step beside a request for all logits', async () => {
    const sim = new Simulation(400, 4);
    const decoding = sim.add(one([1], 200));
    await sim.step();
    const raw = sim.add({ ...one(letters(320), 0), raw: true });
    let steps = 0;
    for (; sim.live.has(raw); steps++) await sim.step();
    expect(steps).toBe(40);
    expect(decoding.sequences[0]!.length).toBe(2 + 20);
    await sim.drain();
  });

  it('decoding takes turns when a step cannot hold every sequence', async () => {
    const sim = new Simulation(400, 4, { maxRows: 3, maxSequences: 3 });
    for (let i = 0; i < 8; i++) sim.add(one([i], 40));
    await sim.drain();
    expect(sim.longestWait).toBeLessThanOrEqual(8 + 8);
  });

  it('a request that finds no blocks waits 64 steps at most', async () => {
    const sim = new Simulation(40, 16, { maxNumSeqs: 4 });
    sim.add(one(letters(4, 3), 200));
    sim.add(one(letters(200, 5), 160));
    for (let i = 0; i < 20; i++) await sim.step();
    const late = sim.add(one(letters(400, 7), 3));
    let waited = 0;
    for (; late.sequences[0]!.status === 'queued'; waited++) await sim.step();
    expect(waited).toBeGreaterThan(8);
    expect(waited).toBeLessThanOrEqual(66);
    await sim.drain();
  });
});

describe('admission', () => {
  it('has no overtaking: a small request behind one that does not fit waits', async () => {
    const sim = new Simulation(400, 4, { maxNumSeqs: 4, maxSequences: 4 });
    sim.add({ ...one([1], 10), choices: 3 });
    const wide = sim.add({ ...one([2], 10), choices: 3 });
    const small = sim.add(one([3], 1));
    for (let i = 0; i < 9; i++) await sim.step();
    expect(wide.sequences[0]!.status).toBe('queued');
    expect(small.sequences[0]!.status).toBe('queued');
    await sim.drain();
  });

  it('a request with more choices than slots runs alone', async () => {
    const sim = new Simulation(400, 4, { maxNumSeqs: 4, maxSequences: 4 });
    const before = sim.add(one([1], 5));
    const wide = sim.add({ ...one(letters(9), 12), choices: 40 });
    const after = sim.add(one([3], 1));
    await sim.step();
    expect(wide.sequences[0]!.status).toBe('queued');
    while (sim.live.has(before)) await sim.step();
    await sim.step();
    expect(wide.sequences.every((s) => s.status !== 'queued')).toBe(true);
    expect(after.sequences[0]!.status).toBe('queued');
    await sim.drain();
  });

  it('promises the blocks of a prompt only once', async () => {
    const sim = new Simulation(20, 4);
    for (const seed of [3, 5, 7]) sim.add(one(letters(48, seed), 3));
    await sim.drain();
    expect(sim.scheduler.preemptions).toBe(0);
  });

  it('counts the blocks that a request will share', async () => {
    const sim = new Simulation(24, 4, { maxRows: 64 });
    sim.add(one(letters(60), 30));
    await sim.step();
    const second = sim.add(one(letters(60), 3));
    await sim.step();
    expect(second.sequences[0]!.status).toBe('running');
    await sim.drain();
  });

  it('keeps the place of a task in the line', async () => {
    const sim = new Simulation(400, 4);
    const before = sim.add(one([1, 2], 5));
    const task = { run: async () => {} };
    sim.scheduler.add(task);
    const after = sim.add(one([3], 2));
    expect(sim.scheduler.takeTask()).toBeUndefined();
    while (sim.live.has(before)) {
      await sim.step();
      expect(after.sequences[0]!.status).toBe('queued');
    }
    expect(await sim.step()).toBe(false);
    expect(sim.scheduler.takeTask()).toBe(task);
    await sim.drain();
  });
});

describe('blocks', () => {
  it('computes a shared prompt once', async () => {
    const sim = new Simulation(400, 4);
    sim.add({ ...one(letters(21), 6), choices: 5 });
    await sim.drain();
    // The prompt, then five tokens of each choice: the sixth is never computed.
    expect(sim.model.rows).toBe(21 + 5 * 5);
  });

  it('reuses the blocks of a request that runs at the same time', async () => {
    const sim = new Simulation(400, 4);
    sim.add(one(letters(41), 2));
    sim.add(one(letters(41), 2));
    await sim.drain();
    expect(sim.model.rows).toBeLessThan(41 + 16 + 3);
    expect(sim.pool.hits).toBeGreaterThanOrEqual(6);
  });

  it('recomputes little after a preemption when the cache still holds its blocks', async () => {
    const sim = new Simulation(16, 4, { maxNumSeqs: 2 });
    sim.add(one(letters(20, 3), 40));
    sim.add(one(letters(20, 5), 30));
    await sim.drain();
    expect(sim.scheduler.preemptions).toBeGreaterThan(0);
    expect(sim.model.rows).toBeLessThan(40 + 68 + 80);
  });
});

describe('states of recurrent layers', () => {
  it('an equal prompt goes on from the snapshot behind its last whole block', async () => {
    const sim = new Simulation(400, 4, {}, 8);
    sim.add(one(letters(41), 2));
    await sim.drain();
    const before = sim.model.rows;
    sim.add(one(letters(41), 2));
    await sim.drain();
    expect(sim.model.rows - before).toBe(1 + 1);
  });

  it('a prompt that goes on from an answer computes what follows the last snapshot', async () => {
    const sim = new Simulation(400, 4, {}, 8);
    const first = sim.add(one(letters(30), 20));
    await sim.drain();
    const before = sim.model.rows;
    // 49 positions were computed, and the state was kept behind the 48th.
    sim.add(one([...letters(30), ...sim.finished.get(first)![0]!, 1, 2, 3], 1));
    await sim.drain();
    expect(sim.model.rows - before).toBe(53 - 48);
  });

  it('where a second prompt leaves the first, a third one finds a snapshot', async () => {
    const sim = new Simulation(400, 4, { maxRows: 64 }, 8);
    const shared = letters(24);
    const rowsOf = async (tail: number[]) => {
      const before = sim.model.rows;
      sim.add(one([...shared, ...tail], 1));
      await sim.drain();
      return sim.model.rows - before;
    };
    expect(await rowsOf([1, 1, 1, 1, 1, 1, 1, 1, 1])).toBe(33);
    expect(await rowsOf([2, 2, 2, 2, 2, 2, 2, 2, 2])).toBe(33);
    expect(await rowsOf([3, 3, 3, 3, 3, 3, 3, 3, 3])).toBe(9);
  });

  it('few slots slow requests down and change nothing', async () => {
    const sim = new Simulation(400, 4, {}, 2);
    for (let i = 0; i < 5; i++) sim.add(one(letters(20 + i, i + 3), 9));
    sim.add({ ...one(letters(15), 7), choices: 5 });
    await sim.drain();
  });

  it('recomputes from the last snapshot after a preemption', async () => {
    const sim = new Simulation(16, 4, { maxNumSeqs: 2 }, 6);
    sim.add(one(letters(20, 3), 40));
    sim.add(one(letters(20, 5), 30));
    await sim.drain();
    expect(sim.scheduler.preemptions).toBeGreaterThan(0);
    expect(sim.model.rows).toBeLessThan(40 + 68 + 80);
  });

  it('drops snapshots with their blocks', async () => {
    const sim = new Simulation(24, 4, {}, 60);
    for (let seed = 3; seed < 60; seed++) {
      // Blocks of earlier prompts are taken; the second time, the prompt itself is found.
      for (const count of [1, 2]) {
        sim.add(one(letters(17 + ((seed * 5) % 40), seed), count));
        await sim.drain();
      }
    }
    expect(sim.pool.evictions).toBeGreaterThan(100);
  });

  it('forgets all of them on demand', async () => {
    const sim = new Simulation(40, 4, {}, 12);
    sim.add(one(letters(41), 2));
    await sim.drain();
    expect(sim.states!.snapshots).toBeGreaterThan(0);
    sim.scheduler.forgetAll();
    expect(sim.states!.snapshots).toBe(0);
    const before = sim.model.rows;
    sim.add(one(letters(41), 1));
    await sim.drain();
    expect(sim.model.rows - before).toBe(41);
  });
});
