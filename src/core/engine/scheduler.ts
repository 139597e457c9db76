/**
 * Decides what each step runs. A sequence has known and computed tokens; a plan gives each some of the difference. That
 * one rule is prefill, prefill in pieces, decode, prefix reuse and the way back after a preemption.
 *
 * Nothing here waits or touches a tensor.
 */
import type { BlockPool } from './blocks.ts';
import { Paging } from './paging.ts';
import { Plan, type PlanLimits } from './plan.ts';
import { type Sequence, SequenceGroup } from './sequence.ts';
import type { StatePool } from './states.ts';

/** A prompt passed over this often comes before decoding sequences. */
const MAX_PASSED_OVER = 8;
/** Stands for a token that is not known yet. */
const UNKNOWN = 0;
/** A request that found no blocks this often makes running ones give theirs up. */
const MAX_BLOCKED = 64;

export interface SchedulerOptions extends PlanLimits {
  /** Sequences that may run at the same time. */
  readonly maxNumSeqs: number;
  readonly prefixCache: boolean;
  /** The tokens of a prompt run in one step. */
  readonly wholePrompts?: boolean | undefined;
}

/** Work that keeps its place in the line: everything before it ends first, everything after it waits. */
export interface ControlTask {
  readonly run: () => Promise<void>;
}

export class Scheduler {
  /** The step planned last, and the one before it, which may still run. */
  plan: Plan;
  #other: Plan;
  readonly #options: SchedulerOptions;
  readonly #pool: BlockPool;
  readonly #paging: Paging;
  readonly #states: StatePool | undefined;

  /** Not started yet, in order of arrival. */
  readonly #queue = new Set<SequenceGroup | ControlTask>();
  /** Started, without blocks; in order of arrival. They come before the queue. */
  readonly #preempted: Sequence[] = [];
  /** In order of admission. */
  readonly #running: Sequence[] = [];
  readonly #prefills: Sequence[] = [];
  #reserved = 0;
  #parked = 0;
  /** Steps for which the head of the line found no blocks. */
  #blocked = 0;
  /** Where decoding goes on when a step cannot take every sequence. */
  #cursor = 0;
  #rawTurn = true;

  preemptions = 0;

  /** `states`: of models with recurrent layers. */
  constructor(pool: BlockPool, options: SchedulerOptions, states?: StatePool) {
    this.#pool = pool;
    this.#options = options;
    this.#states = states;
    this.#paging = new Paging(pool, options, states);
    this.plan = new Plan(options);
    this.#other = new Plan(options);
  }

  /** Sequences that hold a slot. */
  get active(): number {
    return this.#running.length + this.#reserved;
  }

  /** Requests and tasks that have not started. */
  get queued(): number {
    return this.#queue.size;
  }

  /** Started sequences that lost their slot for a while. */
  get interrupted(): number {
    return this.#preempted.length + this.#parked;
  }

  add(item: SequenceGroup | ControlTask): void {
    this.#queue.add(item);
  }

  /** The task at the head of the line, once nothing before it runs. */
  takeTask(): ControlTask | undefined {
    if (this.active > 0 || this.#preempted.length > 0) return undefined;
    const head = this.#head();
    if (head === undefined || head instanceof SequenceGroup) return undefined;
    this.#queue.delete(head);
    return head;
  }

  removeTask(task: ControlTask): boolean {
    return this.#queue.delete(task);
  }

  // -------------------------------------------------------------------------------------------------------------- //
  // One step

  /** Fills `plan`; an empty one means that there is nothing to run. */
  schedule(): Plan {
    const plan = this.#other;
    this.#other = this.plan;
    this.plan = plan;
    this.#other.settle();
    plan.clear();
    this.#admit();
    if (!this.#planRaw()) this.#planPacked();
    for (const sequence of this.#running) if (!sequence.planned) sequence.passedOver++;
    return plan;
  }

  /** Whether the step after the current one could be planned now: one more token for each sequence, and nobody waits. */
  get canPlanAhead(): boolean {
    const { count } = this.plan;
    return this.active === count && this.#queue.size === 0 && this.interrupted === 0 && this.#pool.free >= count;
  }

  /** Plans the step after the current one, which still runs: as if each of its sequences had got a token already. */
  planAhead(): Plan {
    const { plan } = this;
    for (let i = 0; i < plan.count; i++) {
      const sequence = plan.sequences[i]!;
      sequence.computed += plan.rowCounts[i]!;
      sequence.append(UNKNOWN);
    }
    // In the same order: each sequence finds its token in the row it had.
    this.#cursor = this.#running.indexOf(plan.sequences[0]!);
    return this.schedule();
  }

  /** Takes back what `planAhead` assumed of a plan, before its real tokens are committed. */
  retract(plan: Plan): void {
    for (let i = 0; i < plan.count; i++) {
      const sequence = plan.sequences[i]!;
      if (sequence.status !== 'running') continue;
      sequence.computed -= plan.rowCounts[i]!;
      sequence.length--;
    }
  }

  /** A plan has run: its tokens are computed, but of sequences that have left since, or begun anew. */
  commit(plan: Plan): void {
    plan.look();
    for (let i = 0; i < plan.count; i++) {
      const sequence = plan.sequences[i]!;
      if (!plan.live[i]) continue;
      const rows = plan.rowCounts[i]!;
      // Rows of drafts count when their tokens turn out to be right.
      const known = Math.min(rows, sequence.pending);
      sequence.computed += known;
      if (known === rows) this.#paging.confirm(sequence);
      else this.#paging.publish(sequence);
    }
  }

  /** The drafts of a sequence, which ran in the last step, have been checked: all are `right`, or some are not. */
  checked(sequence: Sequence, right: boolean): void {
    if (sequence.status !== 'running' || sequence.blockCount === 0) return;
    if (right) this.#paging.confirm(sequence);
    else this.#paging.goBack(sequence);
  }

  /** The other choices of a request start, on the prompt that the first one has computed. */
  fork(group: SequenceGroup): void {
    const [first, ...others] = group.sequences;
    for (const other of others) {
      this.#reserved--;
      if (this.#paging.fork(first!, other)) this.#run(other);
      else this.#enterLine(other);
    }
  }

  /** What is computed so far is of no use to later sequences: the model may have changed, or a step failed. */
  forgetAll(): void {
    this.#paging.forgetAll();
  }

  /** Nothing of the sequence stays computed; it runs again from its first token. */
  rewind(sequence: Sequence): void {
    this.#paging.release(sequence);
  }

  finish(sequence: Sequence): void {
    this.#paging.release(sequence);
    this.#leave(sequence);
    sequence.status = 'finished';
  }

  /** Ends every choice of a request, wherever it stands. */
  remove(group: SequenceGroup): void {
    this.#queue.delete(group);
    for (const sequence of group.sequences) this.finish(sequence);
  }

  /** Takes a request out until `unpark`: it keeps neither slots nor blocks, so it is in nobody's way. */
  park(group: SequenceGroup): void {
    for (const sequence of group.sequences) {
      if (sequence.status === 'finished') continue;
      this.#paging.release(sequence);
      this.#leave(sequence);
      sequence.status = 'parked';
      this.#parked++;
    }
  }

  unpark(group: SequenceGroup): void {
    for (const sequence of group.sequences) {
      if (sequence.status !== 'parked') continue;
      this.#leave(sequence);
      this.#enterLine(sequence);
    }
  }

  /** Puts the sequences that wait for their next token into `list`. */
  decoding(list: Sequence[]): void {
    list.length = 0;
    for (const sequence of this.#running) {
      if (sequence.decodes && sequence.length > sequence.promptLength) list.push(sequence);
    }
  }

  /** Every request that has started and still holds a slot. */
  activeGroups(): Set<SequenceGroup> {
    const groups = new Set<SequenceGroup>();
    for (const sequence of this.#running) groups.add(sequence.group);
    return groups;
  }

  // -------------------------------------------------------------------------------------------------------------- //
  // Admission

  #admit(): void {
    for (;;) {
      const resumed = this.#preempted[0];
      const head = resumed?.group ?? this.#head();
      if (!(head instanceof SequenceGroup)) return;
      const first = resumed ?? head.sequences[0]!;
      if (!this.#hasSlots(first, resumed === undefined)) return;
      if (this.#running.length > 0 && this.#slack(first) < 0) {
        if (++this.#blocked <= MAX_BLOCKED) return;
        this.#blocked = 0;
        if (!this.#makeRoom(first)) return;
      }
      this.#blocked = 0;
      if (resumed !== undefined) this.#preempted.splice(this.#preempted.indexOf(resumed), 1);
      else this.#start(first.group);
      this.#run(first);
    }
  }

  #head(): SequenceGroup | ControlTask | undefined {
    for (const item of this.#queue) return item;
    return undefined;
  }

  #start(group: SequenceGroup): void {
    this.#queue.delete(group);
    for (let i = 1; i < group.size; i++) group.sequences[i]!.status = 'reserved';
    this.#reserved += group.size - 1;
  }

  #run(sequence: Sequence): void {
    sequence.status = 'running';
    sequence.passedOver = 0;
    this.#running.push(sequence);
  }

  /** A request with more choices than there are slots runs alone. */
  #hasSlots(first: Sequence, starting: boolean): boolean {
    const states = this.#states?.total ?? Number.POSITIVE_INFINITY;
    const slots = Math.min(this.#options.maxNumSeqs, states);
    const { size } = first.group;
    if (!starting) return this.active + 1 <= Math.max(slots, size) && this.#running.length < states;
    return this.active + size <= slots || (this.active === 0 && size > slots);
  }

  /**
   * Blocks left over if all known tokens of `first` were computed, beside what is promised to running prompts and one
   * more block for each sequence.
   */
  #slack(first: Sequence): number {
    let free = this.#pool.free - this.#running.length - this.#paging.missing(first);
    for (const sequence of this.#running) free -= Math.max(0, this.#paging.missing(sequence));
    return free < 0 ? free + this.#paging.shareable(first) : free;
  }

  /** Preempts decoding sequences from the youngest, never the oldest, if that makes `first` fit. */
  #makeRoom(first: Sequence): boolean {
    let slack = this.#slack(first);
    let from = this.#running.length;
    while (slack < 0 && --from > 0) {
      const sequence = this.#running[from]!;
      if (mayYield(sequence))
        slack += this.#paging.exclusive(sequence) + 1 + Math.max(0, this.#paging.missing(sequence));
    }
    if (slack < 0) return false;
    for (let i = this.#running.length - 1; i >= from; i--) {
      if (mayYield(this.#running[i]!)) this.#preempt(this.#running[i]!);
    }
    return true;
  }

  #preempt(sequence: Sequence): void {
    this.preemptions++;
    this.#paging.release(sequence);
    this.#leave(sequence);
    this.#enterLine(sequence);
  }

  #enterLine(sequence: Sequence): void {
    sequence.status = 'preempted';
    const at = this.#preempted.findIndex((other) => arrivedBefore(sequence, other));
    this.#preempted.splice(at < 0 ? this.#preempted.length : at, 0, sequence);
  }

  #leave(sequence: Sequence): void {
    if (sequence.status === 'running') this.#running.splice(this.#running.indexOf(sequence), 1);
    else if (sequence.status === 'preempted') this.#preempted.splice(this.#preempted.indexOf(sequence), 1);
    else if (sequence.status === 'reserved') this.#reserved--;
    else if (sequence.status === 'parked') this.#parked--;
  }

  // -------------------------------------------------------------------------------------------------------------- //
  // Rows

  /** A step for a request that wants all logits; every other step goes to the rest, if there is any. */
  #planRaw(): boolean {
    const raw = this.#running.find((sequence) => sequence.group.raw);
    if (raw === undefined) return false;
    const mixed = this.#running.some((sequence) => !sequence.group.raw);
    this.#rawTurn = !mixed || !this.#rawTurn;
    if (!this.#rawTurn) return false;
    const { maxRows, maxLogitRows } = this.#options;
    const rows = this.#take(raw, Math.min(raw.pending, maxRows, maxLogitRows), this.#leastOf(raw));
    if (rows > 0) this.plan.add(raw, rows, rows);
    return rows > 0;
  }

  #planPacked(): void {
    const prefills = this.#prefills;
    prefills.length = 0;
    let decoding = 0;
    let starving = false;
    for (const sequence of this.#running) {
      if (sequence.group.raw) continue;
      if (!sequence.decodes) this.#paging.reuse(sequence);
      if (sequence.decodes) decoding++;
      else {
        insertByNeed(prefills, sequence);
        starving ||= sequence.passedOver >= MAX_PASSED_OVER;
      }
    }
    const { maxRows } = this.#options;
    if (starving) {
      // Decoding sequences keep half a step at least when they fill more than that.
      const rows = this.#options.wholePrompts ? maxRows : maxRows - Math.min(decoding, Math.floor(maxRows / 2));
      this.#planPrefills(rows, MAX_PASSED_OVER);
    }
    this.#planDecoding();
    this.#planPrefills(maxRows - this.plan.rows, 0);
  }

  /** Round robin, from where the last step had to stop. */
  #planDecoding(): void {
    const running = this.#running;
    const { plan } = this;
    const { maxRows, maxSequences, maxLogitRows } = this.#options;
    // Drafts of one sequence take no row from the others.
    const share = Math.floor(Math.min(maxRows, maxLogitRows) / running.length);
    let at = this.#cursor;
    this.#cursor = 0;
    for (let n = running.length; n > 0; n--, at++) {
      // The list gets shorter when sequences behind this one are preempted.
      if (at >= running.length) at = 0;
      const sequence = running[at]!;
      if (sequence.planned || !sequence.decodes) continue;
      if (plan.count >= maxSequences || plan.rows >= maxRows || plan.logitRows >= maxLogitRows) {
        this.#cursor = at;
        return;
      }
      const most = Math.max(1, Math.min(share, maxRows - plan.rows, maxLogitRows - plan.logitRows));
      const rows = this.#withDrafts(sequence, most);
      if (rows > 0) plan.add(sequence, rows, Math.max(0, rows - sequence.pending + 1));
    }
  }

  /** Blocks, and where there are drafts a guard for the state, for up to `most` rows of a decoding sequence. */
  #withDrafts(sequence: Sequence, most: number): number {
    const { pending, draftCount } = sequence;
    const drafts = Math.min(draftCount, this.#paging.draftRoom(sequence), most - pending);
    const rows = this.#take(sequence, Math.min(most, pending + Math.max(0, drafts)));
    if (rows <= pending || this.#paging.guard(sequence, this.#withoutSlot())) return rows;
    return pending;
  }

  #withoutSlot(): number {
    let count = 0;
    for (const sequence of this.#running) if (sequence.slot < 0) count++;
    return count;
  }

  /** Prompts that were passed over at least `minPassedOver` times, in order of need, under a budget of rows. */
  #planPrefills(budget: number, minPassedOver: number): void {
    const { plan } = this;
    const { maxSequences, maxLogitRows } = this.#options;
    for (const sequence of this.#prefills) {
      if (budget <= 0 || plan.count >= maxSequences) return;
      if (sequence.planned || sequence.status !== 'running' || sequence.passedOver < minPassedOver) continue;
      const rows = Math.min(budget, plan.logitRows < maxLogitRows ? sequence.pending : sequence.pending - 1);
      const least = this.#leastOf(sequence);
      const taken = rows < least ? 0 : this.#take(sequence, this.#paging.cut(sequence, rows), least);
      if (taken === 0) continue;
      plan.add(sequence, taken, taken === sequence.pending ? 1 : 0);
      budget -= taken;
    }
  }

  /** Blocks for up to `rows` tokens. When there is none, the youngest sequences behind this one give theirs up. */
  #take(sequence: Sequence, rows: number, least = 1): number {
    let taken = this.#paging.reserve(sequence, rows, this.plan);
    while (taken < least) {
      const victim = this.#running.findLast((other) => !other.planned)!;
      if (victim === sequence) return 0;
      this.#preempt(victim);
      taken = this.#paging.reserve(sequence, rows, this.plan);
    }
    return taken;
  }

  /** Fewest rows that are of use: those of the prompt where it runs in one step. */
  #leastOf({ computed, promptLength }: Sequence): number {
    return this.#options.wholePrompts ? Math.max(1, promptLength - computed) : 1;
  }
}

/** Gives its blocks up for a request that has waited long: only decoding sequences, which lose little. */
function mayYield(sequence: Sequence): boolean {
  return sequence.decodes;
}

function arrivedBefore(a: Sequence, b: Sequence): boolean {
  return a.group.arrival - b.group.arrival < 0 || (a.group === b.group && a.index < b.index);
}

/** Those passed over too often come first, then the shortest: its first token waits least for others. */
function comesBefore(a: Sequence, b: Sequence): boolean {
  const urgentA = a.passedOver >= MAX_PASSED_OVER ? a.passedOver : 0;
  const urgentB = b.passedOver >= MAX_PASSED_OVER ? b.passedOver : 0;
  return urgentA !== urgentB ? urgentA > urgentB : a.pending < b.pending;
}

function insertByNeed(list: Sequence[], sequence: Sequence): void {
  let at = list.length;
  list.push(sequence);
  for (; at > 0 && comesBefore(sequence, list[at - 1]!); at--) list[at] = list[at - 1]!;
  list[at] = sequence;
}
