/** The fixed part of every WebAssembly memory, in bytes; behind it lies the heap. */

export const PAGE_BYTES = 65_536;
/** Threads that a pool can have. */
export const MAX_THREADS = 64;

/** Vector constants of the kernels; address 0 stays free, so that 0 can mean "absent". */
export const POOL_BASE = 64;
export const POOL_BYTES = 8192 - POOL_BASE;

/** Words that threads share, each on a cache line of its own. */
export const CONTROL = {
  /** Number of commands that may run, counted from the start, modulo 2^32. */
  published: 8192,
  /** Threads asleep on `published`. */
  sleepers: 8256,
  barrierCount: 8320,
  barrierGeneration: 8384,
  barrierSleepers: 8512,
  /** Loads that a waiting thread does before it sleeps. */
  spin: 8448,
} as const;

/** Number of finished commands of each thread, 64 bytes apart. */
export const PROGRESS_BASE = 12_288;
export const PROGRESS_STRIDE = 64;

/** Commands in flight, a power of two; command `n` lies at `RING_BASE + (n % RING_COMMANDS) * COMMAND_BYTES`. */
export const RING_BASE = 16_384;
export const RING_COMMANDS = 2048;

export const HEAP_BASE = 5 * PAGE_BYTES;
