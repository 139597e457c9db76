/** Tasks that run between two steps, in the order in which they came. */
import type { ChannelError } from '../errors.ts';

export class Pauses {
  readonly #tasks = new Map<() => Promise<void>, (error: unknown) => void>();

  get waiting(): boolean {
    return this.#tasks.size > 0;
  }

  add<T>(task: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#tasks.set(() => task().then(resolve, reject), reject);
    });
  }

  /** Runs all that wait, and those that come meanwhile. */
  async run(): Promise<void> {
    for (const [task] of this.#tasks) {
      this.#tasks.delete(task);
      await task();
    }
  }

  /** Rejects all that wait. */
  refuse(error: ChannelError): void {
    for (const reject of this.#tasks.values()) reject(error);
    this.#tasks.clear();
  }
}
