/** One repetition of one benchmark, and the clock that times it. */
export interface Sample {
  /** Tokens, bytes or whatever the benchmark counts. */
  readonly units: number;
  readonly wallMs: number;
  /** CPU time of all threads of the process. */
  readonly cpuMs: number;
  /** Passes over the weights. */
  readonly passes?: number;
  /** Cached positions read, all passes and sequences together. */
  readonly positions?: number;
  /** Sum over the results: nothing can be optimised away, and two builds can be told apart by it. */
  readonly checksum: number;
}

export interface Moment {
  readonly wallMs: number;
  readonly cpuMs: number;
}

export function now(): Moment {
  const { user, system } = process.cpuUsage();
  return { wallMs: performance.now(), cpuMs: (user + system) / 1000 };
}

/** What passed between two moments. */
export function between(start: Moment, end: Moment): Moment {
  return { wallMs: end.wallMs - start.wallMs, cpuMs: end.cpuMs - start.cpuMs };
}

/** A fixed pseudo-random sequence of token ids; different seeds share no beginning. */
export function someTokens(vocabSize: number, length: number, seed: number): Uint32Array {
  const ids = new Uint32Array(length);
  let x = Math.imul(seed + 1, 2654435761) >>> 0;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    // The low bits of this generator repeat after few steps.
    ids[i] = (x >>> 8) % vocabSize;
  }
  return ids;
}
