/** Lines about loading and serving. */
import type { EngineStats } from '../engine/types.ts';
import { ConfigError } from '../errors.ts';
import type { Logger, LogLevel } from './options.ts';

const LEVELS: readonly LogLevel[] = ['off', 'error', 'warn', 'info', 'debug'];
const THROUGHPUT_EVERY_MS = 5000;

/** The logger asked for by option, else by the variable `TRAMONTANE_LOG`, else one that writes warnings. */
export function loggerOf(logging: boolean | LogLevel | Logger | undefined, variable: string | undefined): Logger {
  if (typeof logging === 'function') return logging;
  const named = typeof logging === 'boolean' ? (logging ? 'info' : 'off') : logging;
  const level = named ?? (variable === undefined || variable === '' ? 'warn' : variable);
  const most = LEVELS.indexOf(level as LogLevel);
  if (most < 0) {
    throw new ConfigError(
      `${named === undefined ? 'TRAMONTANE_LOG' : 'option logging'}: expected ${LEVELS.join(' | ')}, got ${JSON.stringify(level)}`,
    );
  }
  return (at, message) => {
    // Browsers and servers both show it; stdout stays free for answers.
    if (LEVELS.indexOf(at) <= most) console[at === 'error' ? 'error' : 'warn'](`tramontane ${at}: ${message}`);
  };
}

/** Logs tokens per second while requests run; the result stops it. */
export function logThroughput(stats: () => EngineStats, log: Logger): () => void {
  let last = stats();
  const timer = setInterval(() => {
    const now = stats();
    const generated = now.generatedTokens - last.generatedTokens;
    const prompt = now.promptTokensComputed - last.promptTokensComputed;
    last = now;
    if (generated + prompt === 0) return;
    const rate = (n: number) => ((n * 1000) / THROUGHPUT_EVERY_MS).toFixed(1);
    log(
      'info',
      `${rate(generated)} tokens/s, prompt ${rate(prompt)} tokens/s; ${now.running} running, ${now.waiting} waiting`,
    );
  }, THROUGHPUT_EVERY_MS);
  // In Node a timer would keep the process alive; elsewhere it is a number.
  (timer as { unref?: () => void }).unref?.();
  return () => clearInterval(timer);
}
