/** The numbers an engine works with: its options, within what the model takes. */
import { ConfigError } from '../errors.ts';
import type { CacheLimit, EngineOptions, ModelRunner } from './types.ts';

const DEFAULT_MAX_SEQUENCES = 32;
const DEFAULT_MAX_ROWS = 512;
const DEFAULT_MAX_QUEUE = 10_000;
const DEFAULT_EVENT_BUFFER = 1024;
/** Floats of logits in one step: 128 MiB. Bounds the pieces in which all logits of a prompt are computed. */
const MAX_LOGITS = 2 ** 25;

export interface EngineLimits {
  readonly vocabSize: number;
  readonly blockSize: number;
  /** Tokens of prompt and answer together: what the model takes and the cache holds. */
  readonly contextLength: number;
  /** Blocks of the longest sequence. */
  readonly maxBlocks: number;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly maxLogitRows: number;
  readonly maxNumSeqs: number;
  readonly maxQueue: number;
  readonly eventBuffer: number;
  readonly prefixCache: boolean;
  readonly wholePrompts: boolean;
  /** Most tokens of a prompt that has to run in one step, without and with all of its logits. */
  readonly wholePrompt: { readonly rows: number; readonly logitRows: number } | undefined;
  readonly seed: number;
  readonly cacheLimit: CacheLimit | undefined;
}

export function resolveLimits(options: EngineOptions, runner: ModelRunner): EngineLimits {
  const maxNumSeqs = positive('maxNumSeqs', options.maxNumSeqs ?? DEFAULT_MAX_SEQUENCES);
  const maxBatchTokens = positive('maxBatchTokens', options.maxBatchTokens ?? DEFAULT_MAX_ROWS);
  const blockSize = positive('blockSize', runner.blockSize);
  const contextLength = Math.min(runner.contextLength, positive('blocks', runner.blocks) * blockSize);
  const maxRows = Math.min(maxBatchTokens, runner.maxRows);
  const maxLogitRows = Math.min(runner.maxLogitRows, Math.max(1, Math.floor(MAX_LOGITS / runner.vocabSize)));
  const wholePrompts = options.wholePrompts ?? false;
  return {
    vocabSize: runner.vocabSize,
    blockSize,
    contextLength,
    maxBlocks: Math.ceil(contextLength / blockSize),
    maxRows,
    maxSequences: Math.min(maxNumSeqs, runner.maxSequences),
    maxLogitRows,
    maxNumSeqs,
    maxQueue: positive('maxQueue', options.maxQueue ?? DEFAULT_MAX_QUEUE),
    eventBuffer: positive('eventBuffer', options.eventBuffer ?? DEFAULT_EVENT_BUFFER),
    prefixCache: (options.prefixCache ?? true) && !options.noKvCache,
    wholePrompts,
    wholePrompt: wholePrompts ? { rows: maxRows, logitRows: Math.min(maxRows, maxLogitRows) } : undefined,
    seed: options.seed ?? 0,
    cacheLimit: options.cacheLimit,
  };
}

function positive(name: string, value: number): number {
  if (Number.isInteger(value) && value > 0) return value;
  throw new ConfigError(`engine.${name}: expected a whole number above 0, got ${value}`);
}
