/** Which lengths of a sequence the model sees alike: rotations of some models depend on how long a sequence is. */
import type { ModelRunner } from './types.ts';

export class LengthRules {
  readonly #recomputeAt: readonly number[];
  readonly #growsBeyond: number;

  constructor(runner: Pick<ModelRunner, 'recomputeAt' | 'growsBeyond'>) {
    this.#recomputeAt = runner.recomputeAt ?? [];
    this.#growsBeyond = runner.growsBeyond ?? Number.POSITIVE_INFINITY;
  }

  /** Whether what was computed for `base` tokens is of no use to a sequence of `length` tokens. */
  outgrown(base: number, length: number): boolean {
    for (const limit of this.#recomputeAt) if (base <= limit && limit < length) return true;
    return false;
  }

  /** Sequences computed for lengths of equal salt may share cache blocks. */
  salt(base: number): number {
    if (base > this.#growsBeyond) return base;
    let salt = 0;
    for (const limit of this.#recomputeAt) if (limit < base) salt = Math.max(salt, limit + 1);
    return salt;
  }
}
