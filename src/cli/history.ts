/** Lines typed in earlier chats. Failing to read or keep them never disturbs a chat. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

export class History {
  static readonly size = 1000;
  readonly #file: string;
  #entries: string[];

  constructor(file: string) {
    this.#file = file;
    this.#entries = readLines(file);
  }

  /** The history of the user who runs this program. */
  static ofUser(env: NodeJS.ProcessEnv = process.env): History {
    const base = env['XDG_STATE_HOME'] || env['LOCALAPPDATA'] || join(homedir(), '.local', 'state');
    return new History(join(base, 'tramontane', 'history'));
  }

  /** Newest first, as `readline` has them. */
  get lines(): string[] {
    return [...this.#entries];
  }

  keep(entries: readonly string[]): void {
    this.#entries = entries.slice(0, History.size);
  }

  /** Writes the lines, oldest first, readable by their user alone. */
  save(): void {
    try {
      mkdirSync(dirname(this.#file), { recursive: true, mode: 0o700 });
      writeFileSync(this.#file, [...this.#entries].reverse().join('\n'), { mode: 0o600 });
    } catch {
      return;
    }
  }
}

function readLines(file: string): string[] {
  try {
    const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
    return lines.slice(-History.size).reverse();
  } catch {
    return [];
  }
}
