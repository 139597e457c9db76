/** Failures as text and exit status. */
import { CommanderError } from 'commander';
import { AbortError, messageOf } from '../core/errors.ts';

/** Not the usual 1: the command line itself was wrong. */
const USAGE = 2;
/** As shells report a program ended by Ctrl-C. */
export const INTERRUPTED = 130;

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
  return error instanceof AbortError ? INTERRUPTED : 1;
}

/** `tramontane: ModelLoadError: …`, with the reasons behind it. */
export function failureText(error: unknown): string {
  const name = error instanceof Error && error.name !== 'Error' ? `${error.name}: ` : '';
  let text = `tramontane: ${name}${messageOf(error)}`;
  let cause: unknown = error instanceof Error ? error.cause : undefined;
  for (let depth = 0; cause !== undefined && depth < 4; depth++) {
    const message = messageOf(cause);
    if (!text.includes(message)) text += `\n  because: ${message}`;
    cause = cause instanceof Error ? cause.cause : undefined;
  }
  return text;
}
