/** What the commands write to the terminal besides their result: progress, notes, errors. All of it goes to stderr. */
import type { LoadProgressEvent } from '../core/sdk/options.ts';

/** The part of a terminal stream that is used here. */
export interface Screen {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

const BAR_WIDTH = 24;
/** Milliseconds between redraws. */
const REDRAW_MS = 50;
/** A load that takes less than this shows no bar at all. */
const PATIENCE_MS = 250;

/** A bar that redraws itself in place; silent where the stream is not a terminal. */
export class ProgressBar {
  readonly #screen: Screen;
  readonly #now: () => number;
  readonly #start: number;
  #drawn = false;
  #last = Number.NEGATIVE_INFINITY;

  constructor(screen: Screen, now: () => number = () => performance.now()) {
    this.#screen = screen;
    this.#now = now;
    this.#start = now();
  }

  readonly update = (progress: LoadProgressEvent): void => {
    if (!this.#screen.isTTY) return;
    const now = this.#now();
    const finished = progress.done >= progress.total;
    if (now - this.#start < PATIENCE_MS || (now - this.#last < REDRAW_MS && !finished)) return;
    this.#last = now;
    this.#drawn = true;
    this.#screen.write(`\r\x1b[2K${progressLine(progress, this.#screen.columns ?? 80)}`);
  };

  /** Removes the bar. */
  clear(): void {
    if (this.#drawn) this.#screen.write('\r\x1b[2K');
    this.#drawn = false;
  }
}

/** `download [######......]  42%  41.3 / 98.4 MB  model.gguf`, cut to the width of the terminal. */
export function progressLine(p: LoadProgressEvent, columns: number): string {
  const share = p.total > 0 ? Math.min(1, Math.max(0, p.done / p.total)) : 0;
  const filled = Math.round(share * BAR_WIDTH);
  const bar = `${'#'.repeat(filled)}${'.'.repeat(BAR_WIDTH - filled)}`;
  const amount = p.unit === 'bytes' ? `${megabytes(p.done)} / ${megabytes(p.total)} MB` : `${p.done} / ${p.total}`;
  const line = `${p.stage} [${bar}] ${String(Math.floor(share * 100)).padStart(3)}%  ${amount}${p.item ? `  ${p.item}` : ''}`;
  return line.length < columns ? line : line.slice(0, Math.max(0, columns - 1));
}

export function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

/** Dim text on a terminal, plain text elsewhere and where `NO_COLOR` is set. */
export function dim(text: string, screen: Screen, noColor: boolean): string {
  return screen.isTTY && !noColor ? `\x1b[2m${text}\x1b[0m` : text;
}

/** A table with aligned columns; the first row is the head. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  const line = (row: readonly string[]) =>
    row
      .map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i] ?? 0)))
      .join('  ')
      .trimEnd();
  return rows.map(line).join('\n');
}
