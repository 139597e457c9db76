/** What one step runs. Made by the scheduler, reused from step to step. */
import type { Sequence } from './sequence.ts';

export interface PlanLimits {
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly maxLogitRows: number;
}

export class Plan {
  readonly limits: PlanLimits;
  /** The first `count` entries of these belong to the step: a sequence runs its next `rowCounts[i]` tokens. */
  readonly sequences: Sequence[] = [];
  readonly rowCounts: Int32Array;
  /** Tokens of each that were computed before the step. */
  readonly before: Int32Array;
  /** Its last rows whose logits are wanted. */
  readonly wanted: Int32Array;
  /** Whether what the step computes for a sequence is of use; see `look`. */
  readonly live: boolean[] = [];
  count = 0;
  rows = 0;
  logitRows = 0;
  /** Pairs `(from, to)` of blocks, copied in this order before the rows run. */
  readonly copies: Int32Array;
  copyCount = 0;

  constructor(limits: PlanLimits) {
    this.limits = limits;
    this.rowCounts = new Int32Array(limits.maxSequences);
    this.before = new Int32Array(limits.maxSequences);
    this.wanted = new Int32Array(limits.maxSequences);
    this.copies = new Int32Array(2 * limits.maxSequences);
  }

  /** Its sequences may be planned anew. */
  settle(): void {
    for (let i = 0; i < this.count; i++) this.sequences[i]!.planned = false;
  }

  /** Looks which sequences still stand where they stood when they were planned: `live`. */
  look(): void {
    for (let i = 0; i < this.count; i++) {
      const sequence = this.sequences[i]!;
      this.live[i] = sequence.status === 'running' && sequence.computed === this.before[i];
    }
  }

  clear(): void {
    this.count = 0;
    this.rows = 0;
    this.logitRows = 0;
    this.copyCount = 0;
  }

  /** `wanted`: of how many of the rows, counted from the last, logits are wanted. */
  add(sequence: Sequence, rows: number, wanted: number): void {
    this.sequences[this.count] = sequence;
    this.rowCounts[this.count] = rows;
    this.before[this.count] = sequence.computed;
    this.wanted[this.count] = wanted;
    this.count++;
    this.rows += rows;
    this.logitRows += wanted;
    sequence.planned = true;
    sequence.passedOver = 0;
  }

  copy(from: number, to: number): void {
    this.copies[2 * this.copyCount] = from;
    this.copies[2 * this.copyCount + 1] = to;
    this.copyCount++;
  }
}
