/** Which lengths of a sequence the model sees alike: rotations of some models depend on how long a sequence is. */
import type { ModelRunner } from './types.ts';

/** Above any length: salts of adapters lie this far apart. */
const MAX_LENGTH = 2 ** 31;

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

  /** Sequences computed for lengths of equal salt, with one adapter generation or none, may share cache blocks. */
  salt(base: number, adapter = 0): number {
    const offset = adapter * MAX_LENGTH;
    if (base > this.#growsBeyond) return offset + base;
    let salt = 0;
    for (const limit of this.#recomputeAt) if (limit < base) salt = Math.max(salt, limit + 1);
    return offset + salt;
  }
}
