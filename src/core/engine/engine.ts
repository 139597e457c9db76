/**
 * The loop: schedule, forward, sample, commit, publish. Requests come in at any time and their events go out through
 * queues that never make the loop wait; each step awaits the model once.
 */
import {
  AbortError,
  ChannelError,
  ConfigError,
  InferenceError,
  LoraAdapterError,
  ModelError,
  messageOf,
  RequestValidationError,
  TramontaneError,
} from '../errors.ts';
import { BatchBuilder } from './batch.ts';
import { BlockPool } from './blocks.ts';
import { EventQueue } from './events.ts';
import { HostTurns } from './host.ts';
import { LengthRules } from './lengths.ts';
import { type EngineLimits, resolveLimits } from './limits.ts';
import { Pauses } from './pauses.ts';
import type { Plan } from './plan.ts';
import { RowViews } from './rows.ts';
import { GenerationRun, RawRun } from './run.ts';
import { SamplerWorkspace } from './sampler.ts';
import { deriveSeed } from './sampling/rng.ts';
import { type ControlTask, Scheduler } from './scheduler.ts';
import { type Sequence, SequenceGroup, withhold } from './sequence.ts';
import { prepareChoices, stopIds } from './setup.ts';
import { NO_DRAFTS, Speculation } from './speculation.ts';
import { StatePool } from './states.ts';
import { Timing } from './timing.ts';
import type {
  AdapterLease,
  AdapterSelection,
  EngineOptions,
  EngineStats,
  FinishReason,
  GenerationRequest,
  GenerationResult,
  GenerationStream,
  ModelRunner,
  RawLogits,
  RawLogitsRequest,
  SamplingParams,
  TopLogits,
  TopRow,
} from './types.ts';
import { checkPrompt, checkRequest } from './validate.ts';

/** Steps shorter than this share a turn of the host's event loop. */
const MIN_TURN_MS = 1;

type Run = GenerationRun | RawRun;

export class Engine {
  readonly #runner: ModelRunner;
  readonly #options: EngineOptions;
  readonly #limits: EngineLimits;
  readonly #lengths: LengthRules;
  readonly #now: () => number;
  readonly #pool: BlockPool;
  readonly #states: StatePool | undefined;
  readonly #scheduler: Scheduler;
  readonly #batches: BatchBuilder;
  readonly #speculation: Speculation | undefined;
  readonly #workspace: SamplerWorkspace;
  readonly #rows: RowViews;
  readonly #turns = new HostTurns();

  readonly #runs = new Map<SequenceGroup, Run>();
  readonly #pauses = new Pauses();
  readonly #tasks = new Map<ControlTask, (error: unknown) => void>();
  /** Started requests that end before the next step. */
  readonly #canceled = new Set<GenerationRun | RawRun>();
  /** Requests whose readers are behind. */
  readonly #paused = new Set<GenerationRun>();
  #arrivals = 0;
  #loop: Promise<void> | undefined;
  #looping = false;
  #disposed = false;
  #lastTurn = 0;
  /** Of the step that was started last. */
  #need = Number.POSITIVE_INFINITY;

  #steps = 0;
  #promptTokens = 0;
  #promptTokensComputed = 0;
  #generatedTokens = 0;
  readonly #completed: Record<FinishReason, number> = { stop: 0, length: 0, canceled: 0, error: 0 };

  constructor(runner: ModelRunner, options: EngineOptions = {}) {
    if (options.adapters && options.drafter) {
      throw new ConfigError('engine: expected adapters or speculation, got both; drop one of them');
    }
    this.#runner = runner;
    this.#options = options;
    this.#limits = resolveLimits(options, runner);
    this.#lengths = new LengthRules(runner);
    this.#now = options.now ?? (() => performance.now());
    this.#pool = new BlockPool(runner.blocks, runner.blockSize);
    const slots = runner.stateSlots ?? 0;
    this.#states = slots > 0 ? new StatePool(slots, runner.blocks) : undefined;
    this.#scheduler = new Scheduler(this.#pool, this.#limits, this.#states);
    this.#batches = new BatchBuilder(this.#limits, this.#states);
    const drafter = options.noKvCache ? undefined : options.drafter;
    this.#speculation = drafter && new Speculation(drafter);
    this.#workspace = new SamplerWorkspace(runner.vocabSize);
    this.#rows = new RowViews(runner.vocabSize);
  }

  /** Tokens of prompt and answer together: what the model takes and the cache holds. */
  get contextLength(): number {
    return this.#limits.contextLength;
  }

  /** Starts a request. Throws `RequestValidationError`, or `ChannelError` after `dispose`. */
  submit(request: GenerationRequest): GenerationStream {
    return this.#generation(request).events;
  }

  /** A request from start to end. Rejects with `AbortError` when it is cancelled. */
  async generate(request: GenerationRequest): Promise<GenerationResult> {
    const run = this.#generation(request);
    for await (const _ of run.events);
    const result = run.result(this.#now());
    if (result.choices.some((choice) => choice.finishReason === 'canceled')) {
      throw new AbortError('generation: the call was aborted', { cause: request.signal?.reason });
    }
    return result;
  }

  /** The logits of every prompt position; runs in batches of its own and reuses nothing. */
  rawLogits(request: RawLogitsRequest): Promise<RawLogits> {
    return new Promise((resolve, reject) => {
      this.#checkOpen();
      const prompt = checkPrompt(request.prompt, this.#limits, {
        truncate: request.truncateSequence ?? false,
        maxLen: undefined,
        raw: true,
      });
      const lease = this.#lease(request.adapter);
      const group = this.#group(prompt, { choices: 1, raw: true, adapter: lease?.serial });
      const { vocabSize } = this.#runner;
      const { onRows } = request;
      const timing = new Timing(this.#now());
      const run = new RawRun({ group, lease, prompt, timing, vocabSize, onRows, resolve, reject });
      this.#enter(run, prompt.length, request.signal);
    });
  }

  /**
   * Runs a task with the model to itself: after everything submitted before, before everything submitted after. The
   * prefix cache is dropped, since the task may change the model; not so with `keepsModel`.
   */
  runExclusive<T>(
    task: () => Promise<T>,
    options: { readonly signal?: AbortSignal | undefined; readonly keepsModel?: boolean } = {},
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#checkOpen();
      const { signal, keepsModel = false } = options;
      const abort = () => {
        if (!this.#scheduler.removeTask(control)) return;
        this.#tasks.delete(control);
        reject(new AbortError('task: the call was aborted', { cause: signal?.reason }));
      };
      const control: ControlTask = {
        run: async () => {
          signal?.removeEventListener('abort', abort);
          try {
            resolve(await task());
          } catch (error) {
            reject(error);
          }
          if (!keepsModel) this.#scheduler.forgetAll();
        },
      };
      this.#tasks.set(control, reject);
      this.#scheduler.add(control);
      if (signal?.aborted) abort();
      else signal?.addEventListener('abort', abort, { once: true });
      this.#wake();
    });
  }

  /** Runs a task as soon as no step runs, and the next step after it. Requests go on as if nothing had been. */
  async betweenSteps<T>(task: () => Promise<T>): Promise<T> {
    this.#checkOpen();
    const done = this.#pauses.add(task);
    this.#wake();
    return done;
  }

  /** Later requests compute everything anew, and share nothing with those that run: the model has changed under them. */
  forgetPrefixes(): void {
    this.#scheduler.forgetAll();
    for (const group of this.#runs.keys()) for (const sequence of group.sequences) withhold(sequence);
  }

  stats(): EngineStats {
    return {
      running: this.#scheduler.active,
      waiting: this.#scheduler.queued + this.#scheduler.interrupted,
      promptTokensComputed: this.#promptTokensComputed,
      promptTokens: this.#promptTokens,
      generatedTokens: this.#generatedTokens,
      steps: this.#steps,
      ...(this.#speculation?.counters ?? NO_DRAFTS),
      preemptions: this.#scheduler.preemptions,
      prefixLookups: this.#pool.lookups,
      prefixHits: this.#pool.hits,
      prefixEvictions: this.#pool.evictions,
      blocksUsed: this.#pool.used,
      blocksTotal: this.#pool.total,
      statesUsed: this.#states?.held ?? 0,
      statesTotal: this.#states?.total ?? 0,
      completed: { ...this.#completed },
    };
  }

  /** Ends every request with `ChannelError`; resolves when the model is at rest. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    const error = new ChannelError('engine: it was disposed while the call was waiting');
    for (const run of [...this.#runs.values()]) this.#end(run, error);
    for (const [task, reject] of this.#tasks) {
      this.#scheduler.removeTask(task);
      reject(error);
    }
    this.#tasks.clear();
    this.#pauses.refuse(error);
    await this.#loop;
  }

  // -------------------------------------------------------------------------------------------------------------- //
  // Requests in

  #generation(request: GenerationRequest): GenerationRun {
    this.#checkOpen();
    const prompt = checkRequest(request, this.#limits);
    const sampling = { ...request.sampling, temperature: request.sampling?.temperature ?? 1 };
    const lease = this.#lease(request.adapter);
    try {
      return this.#start(request, prompt, sampling, lease);
    } catch (error) {
      lease?.release();
      throw error;
    }
  }

  #start(
    request: GenerationRequest,
    prompt: Uint32Array,
    sampling: SamplingParams,
    lease: AdapterLease | undefined,
  ): GenerationRun {
    const { vocabSize } = this.#runner;
    const options = { choices: sampling.nChoices ?? 1, raw: false, adapter: lease?.serial };
    const group = this.#group(prompt, options);
    const run: GenerationRun = new GenerationRun({
      group,
      lease,
      events: new EventQueue(
        prompt,
        { onCancel: () => this.#cancel(run), onTake: () => this.#resume(run) },
        lease?.generation,
      ),
      timing: new Timing(this.#now()),
      choices: prepareChoices(request, sampling, {
        count: group.size,
        vocabSize,
        workspace: this.#workspace,
        seed: deriveSeed(this.#limits.seed, group.arrival),
      }),
      stopIds: stopIds(request, sampling, this.#options.eosIds ?? []),
      maxLen: sampling.maxLen ?? this.#limits.contextLength,
      contextLength: this.#limits.contextLength,
      logprobs: request.logprobs ?? false,
    });
    this.#enter(run, prompt.length, request.signal);
    return run;
  }

  #lease(adapter: AdapterSelection | undefined): AdapterLease | undefined {
    if (adapter === undefined) return undefined;
    const { adapters } = this.#options;
    if (adapters) return adapters.acquire(adapter);
    throw new LoraAdapterError(
      'runtime_unavailable',
      'adapter: expected a model loaded for adapters; load it with the option `lora: true`',
    );
  }

  #checkOpen(): void {
    if (this.#disposed) throw new ChannelError('engine: expected it to run, but it was disposed; load the model again');
    if (this.#scheduler.queued >= this.#limits.maxQueue) {
      throw new RequestValidationError(
        'queue_full',
        `queue: expected fewer than ${this.#limits.maxQueue} waiting requests, got ${this.#scheduler.queued}; try again later`,
      );
    }
  }

  #group(
    prompt: Uint32Array,
    options: { readonly choices: number; readonly raw: boolean; readonly adapter: number | undefined },
  ): SequenceGroup {
    const salt = this.#lengths.salt(prompt.length, options.adapter);
    return new SequenceGroup(this.#arrivals++, prompt, this.#runner.blockSize, { ...options, salt });
  }

  #enter(run: Run, promptTokens: number, signal: AbortSignal | undefined): void {
    this.#runs.set(run.group, run);
    this.#promptTokens += promptTokens;
    this.#scheduler.add(run.group);
    if (signal !== undefined) {
      const abort = () => this.#cancel(run);
      run.onEnd = () => signal.removeEventListener('abort', abort);
      signal.addEventListener('abort', abort);
      if (signal.aborted) abort();
    }
    this.#wake();
  }

  /** A request that has not started leaves the queue at once, others leave before the next step. */
  #cancel(run: Run): void {
    if (!this.#runs.has(run.group)) return;
    if (run.group.sequences[0]!.status === 'queued') {
      this.#endCanceled(run);
    } else {
      this.#canceled.add(run);
      this.#wake();
    }
  }

  #endCanceled(run: Run): void {
    if (run instanceof GenerationRun) {
      this.#completed.canceled += run.cancel(this.#now());
      this.#forget(run);
    } else {
      this.#completed.canceled++;
      this.#end(run, new AbortError('rawLogits: the call was aborted'));
    }
  }

  /** The reader took an event: a request that was paused for it goes on once half of the buffer is free. */
  #resume(run: GenerationRun): void {
    if (this.#paused.size === 0 || !this.#paused.has(run) || run.events.size > this.#capacity(run.group) / 2) return;
    this.#paused.delete(run);
    this.#scheduler.unpark(run.group);
    this.#wake();
  }

  /** Out of every list, with all blocks given back. */
  #forget(run: Run): void {
    this.#scheduler.remove(run.group);
    this.#runs.delete(run.group);
    this.#canceled.delete(run);
    if (run instanceof GenerationRun) this.#paused.delete(run);
    run.onEnd?.();
    run.lease?.release();
  }

  #end(run: Run, error: unknown): void {
    run.fail(error);
    this.#forget(run);
  }

  // -------------------------------------------------------------------------------------------------------------- //
  // The loop

  /** Requests that come in together start together: the loop begins when the caller's code has run. */
  #wake(): void {
    if (this.#disposed || this.#looping) return;
    this.#looping = true;
    this.#loop = Promise.resolve().then(() => this.#run());
  }

  async #run(): Promise<void> {
    let plan: Plan | undefined;
    let result: Promise<Float32Array | TopLogits> | undefined;
    for (;;) {
      for (const run of this.#canceled) this.#endCanceled(run);
      if (plan === undefined) {
        if (this.#disposed) return this.#rest();
        if (this.#pauses.waiting) {
          await this.#pauses.run();
          continue;
        }
        const task = this.#scheduler.takeTask();
        if (task !== undefined) {
          await this.#runTask(task);
          continue;
        }
        const drafting = this.#speculation?.prepare(this.#scheduler, this.#runs);
        if (drafting !== undefined) {
          try {
            await drafting;
          } catch (error) {
            this.#failActive(error);
          }
        }
        plan = this.#scheduler.schedule();
        if (plan.count === 0) {
          if (!this.#pauses.waiting) return this.#rest();
          plan = undefined;
          continue;
        }
        this.#begin(plan);
        result = this.#forward(plan, false);
      }
      const ahead: Plan | undefined = this.#mayRunAhead(plan) ? this.#scheduler.planAhead() : undefined;
      const following = ahead && this.#forward(ahead, true);
      // It is awaited after the current one; until then a failure must not count as unhandled.
      following?.catch(() => undefined);
      try {
        const logits = (await result) as Float32Array | TopLogits;
        if (ahead !== undefined) this.#scheduler.retract(plan);
        if (!this.#disposed) this.#commit(plan, logits);
      } catch (error) {
        if (ahead !== undefined) this.#scheduler.retract(plan);
        this.#failActive(error);
      }
      plan = ahead;
      result = following;
      // Readers see a step's events before the next step begins, even if that one blocks the thread.
      if (!this.#disposed && this.#now() - this.#lastTurn >= MIN_TURN_MS) {
        await (this.#options.yieldToHost?.() ?? this.#turns.next());
        this.#lastTurn = this.#now();
      }
    }
  }

  /** In the same moment in which there is nothing to do: what comes later wakes the loop again. */
  #rest(): void {
    this.#looping = false;
    this.#turns.close();
  }

  async #runTask(task: ControlTask): Promise<void> {
    await task.run();
    this.#tasks.delete(task);
  }

  #begin(plan: Plan): void {
    const at = this.#now();
    for (let i = 0; i < plan.count; i++) this.#runs.get(plan.sequences[i]!.group)!.timing.start(at);
  }

  /** Whole rows, or where that is enough and cheaper, their largest entries. */
  async #forward(plan: Plan, follows: boolean): Promise<Float32Array | TopLogits> {
    const batch = this.#batches.build(plan, follows);
    const { top } = this.#runner;
    this.#need = top === undefined || batch.logitCount === 0 ? Number.POSITIVE_INFINITY : this.#needOf(plan);
    return top !== undefined && this.#need <= top.maxK ? top.forward(batch, this.#need) : this.#runner.forward(batch);
  }

  /** How many of the largest logits of each row choose the next tokens. */
  #needOf(plan: Plan): number {
    let need = 1;
    for (let i = 0; i < plan.count; i++) {
      if (plan.wanted[i] === 0) continue;
      const run = this.#runs.get(plan.sequences[i]!.group);
      need = Math.max(need, run instanceof GenerationRun ? run.need : Number.POSITIVE_INFINITY);
    }
    return need;
  }

  /**
   * Whether the step after one that runs can be started before its tokens are known: every sequence takes the most likely
   * token and surely goes on behind it, unless that token ends it (then its part of the step is lost).
   */
  #mayRunAhead(plan: Plan): boolean {
    if (this.#need !== 1 || this.#runner.stateSlots || this.#options.noKvCache || this.#speculation) return false;
    if (this.#disposed || this.#canceled.size > 0 || this.#pauses.waiting || !this.#scheduler.canPlanAhead)
      return false;
    if (this.#runner.contended) return false;
    for (let i = 0; i < plan.count; i++) {
      const sequence = plan.sequences[i]!;
      const run = this.#runs.get(sequence.group);
      if (!(run instanceof GenerationRun) || run.room(sequence) <= 1) return false;
      if (plan.wanted[i] !== 1 || plan.rowCounts[i] !== 1 || sequence.computed < sequence.promptLength) return false;
      if (this.#lengths.outgrown(sequence.base, sequence.length + 1)) return false;
    }
    return true;
  }

  #commit(plan: Plan, logits: Float32Array | TopLogits): void {
    this.#steps++;
    this.#scheduler.commit(plan);
    for (let i = 0; i < plan.count; i++) {
      const { computed, promptLength } = plan.sequences[i]!;
      if (plan.live[i]) this.#promptTokensComputed += Math.max(0, Math.min(computed, promptLength) - plan.before[i]!);
    }
    const at = this.#now();
    let row = 0;
    for (let i = 0; i < plan.count; i++) {
      const rows = plan.wanted[i]!;
      if (rows === 0) continue;
      const sequence = plan.sequences[i]!;
      // A request that failed with one choice is gone before its other ones come up.
      const run = this.#runs.get(sequence.group);
      if (run instanceof RawRun) {
        const { vocabSize } = this.#runner;
        if (!(logits instanceof Float32Array))
          throw new InferenceError('engine: a raw request got parts of its logits');
        if (run.advance(sequence, logits.subarray(row * vocabSize, (row + rows) * vocabSize), at)) this.#forget(run);
      } else if (run !== undefined && plan.live[i]) {
        if (rows === 1) this.#advance(run, sequence, this.#rows.at(logits, row), at);
        else this.#check(run, sequence, { logits, row, rows }, at);
      }
      row += rows;
    }
    this.#speculation?.observe(plan);
  }

  /** Tokens from rows of drafts, as long as each draft is the token that its row's predecessor gives. */
  #check(
    run: GenerationRun,
    sequence: Sequence,
    { logits, row, rows }: { readonly logits: Float32Array | TopLogits; readonly row: number; readonly rows: number },
    at: number,
  ): void {
    let accepted = 0;
    for (let i = 0; i < rows; i++) {
      const draft = sequence.tokens[sequence.length]!;
      this.#advance(run, sequence, this.#rows.at(logits, row + i), at);
      const goesOn = i + 1 < rows && sequence.status === 'running' && sequence.pending === 1;
      if (!goesOn || sequence.tokens[sequence.length - 1] !== draft) break;
      // The row of the draft was computed with this step: it counts.
      sequence.computed++;
      accepted++;
    }
    this.#scheduler.checked(sequence, accepted === rows - 1);
    this.#speculation?.checked(sequence, rows - 1, accepted);
  }

  /** The next token of a sequence; with the first one, the other choices begin on the same logits. */
  #advance(run: GenerationRun, sequence: Sequence, logits: Float32Array | TopRow, at: number): void {
    const { group } = sequence;
    const starting = group.size > 1 && sequence.index === 0 && sequence.length === sequence.promptLength;
    if (starting) this.#scheduler.fork(group);
    try {
      if (starting) for (const s of group.sequences) this.#choose(run, s, logits, at);
      else this.#choose(run, sequence, logits, at);
    } catch (error) {
      this.#completed.error += group.sequences.filter((s) => s.status !== 'finished').length;
      this.#end(run, error instanceof TramontaneError ? error : new InferenceError(messageOf(error), { cause: error }));
      return;
    }
    if (run.finished) this.#forget(run);
    else if (run.events.size + 2 * group.size + 1 > this.#capacity(group)) this.#pause(run);
  }

  #choose(run: GenerationRun, sequence: Sequence, logits: Float32Array | TopRow, at: number): void {
    const reason = run.advance(sequence, logits, at);
    this.#generatedTokens++;
    if (reason !== undefined) {
      this.#completed[reason]++;
      this.#scheduler.finish(sequence);
      return;
    }
    const outgrown = this.#lengths.outgrown(sequence.base, sequence.length);
    if (outgrown) {
      sequence.base = sequence.length;
      sequence.salt = this.#lengths.salt(sequence.base, sequence.group.adapter);
    }
    if (outgrown || this.#options.noKvCache) this.#scheduler.rewind(sequence);
  }

  /** A step adds a token and a finish event for each choice at most, and one for the request. */
  #capacity(group: SequenceGroup): number {
    return Math.max(this.#limits.eventBuffer, 4 * group.size + 2);
  }

  #pause(run: GenerationRun): void {
    if (this.#paused.has(run)) return;
    this.#paused.add(run);
    this.#scheduler.park(run.group);
  }

  /** A step failed: what it computed is lost, and so is whatever shared the cache with it. */
  #failActive(error: unknown): void {
    const at = this.#now();
    for (const group of this.#scheduler.activeGroups()) {
      const run = this.#runs.get(group)!;
      this.#completed.error += group.sequences.filter((s) => s.status !== 'finished').length;
      const partialResponse = run instanceof GenerationRun ? run.result(at) : undefined;
      this.#end(run, new ModelError(`forward: ${messageOf(error)}`, { cause: error, partialResponse }));
    }
    this.#scheduler.forgetAll();
  }
}
