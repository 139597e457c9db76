/** Files of a folder that change together: written under other names, then moved in, with all that goes back on failure. */
import type { Platform } from '../platform.ts';
import { baseName, dirName, joinPath } from './path.ts';

export class Staging {
  readonly #platform: Platform;
  readonly #folder: string;
  readonly #staged: string[] = [];

  constructor(platform: Platform, folder: string) {
    this.#platform = platform;
    this.#folder = folder;
  }

  /** Where the file that will be `name` (within the folder) is to be written. */
  path(name: string): string {
    if (!this.#staged.includes(name)) this.#staged.push(name);
    return this.#at(name, 'new');
  }

  /**
   * Moves all files in. What they replace, and the files named by `obsolete`, are gone afterwards; when any step fails,
   * everything is as it was.
   */
  async publish(obsolete: Iterable<string>): Promise<void> {
    const moved: string[] = [];
    const installed: string[] = [];
    try {
      for (const name of new Set([...this.#staged, ...obsolete])) {
        if ((await this.#platform.stat(this.#final(name)))?.kind !== 'file') continue;
        await this.#platform.rename(this.#final(name), this.#at(name, 'old'));
        moved.push(name);
      }
      for (const name of this.#staged) {
        await this.#platform.rename(this.#at(name, 'new'), this.#final(name));
        installed.push(name);
      }
    } catch (error) {
      for (const name of installed) await this.#platform.remove(this.#final(name));
      for (const name of moved) await this.#platform.rename(this.#at(name, 'old'), this.#final(name));
      throw error;
    }
    this.#staged.length = 0;
    for (const name of moved) await this.#platform.remove(this.#at(name, 'old'));
  }

  /** Removes what has been written and not moved in. */
  async discard(): Promise<void> {
    for (const name of this.#staged) await this.#platform.remove(this.#at(name, 'new'));
  }

  #final(name: string): string {
    return joinPath(this.#folder, name);
  }

  #at(name: string, kind: 'new' | 'old'): string {
    const path = this.#final(name);
    return joinPath(dirName(path), `.${baseName(path)}.${kind}`);
  }
}
