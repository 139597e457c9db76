import { HostTurns } from './engine/host.ts';

/**
 * Whose steps a back-end runs. The result of a step lies in memory that the next one uses again: a party that shares the
 * back-end with others goes on at once while it is alone, else they take turns, in the order in which they came.
 */
export class Turns {
  /** Whose step ran last. */
  #holder: object | undefined;
  #running = 0;
  #passing = false;
  readonly #waiting: { readonly party: object; readonly go: () => void }[] = [];
  readonly #host = new HostTurns();

  /** Whether a step of `party` would have to wait, or another waits for it. */
  contended(party: object): boolean {
    return this.#waiting.length > 0 || this.#passing || (this.#holder !== undefined && this.#holder !== party);
  }

  /** Begins a step of `party`: when something comes back, it is awaited first. Every step ends with `end`. */
  begin(party: object): Promise<void> | undefined {
    if (!this.contended(party)) {
      this.#holder = party;
      this.#running++;
      return undefined;
    }
    return new Promise((go) => {
      this.#waiting.push({ party, go });
      this.#passOn();
    });
  }

  end(): void {
    this.#running--;
    this.#passOn();
  }

  /** Whoever awaited the last step has used its result when the event loop has turned once. */
  #passOn(): void {
    if (this.#running > 0 || this.#passing || this.#waiting.length === 0) return;
    this.#passing = true;
    void this.#host.next().then(() => {
      this.#passing = false;
      const { party, go } = this.#waiting.shift()!;
      this.#holder = party;
      this.#running++;
      if (this.#waiting.length === 0) this.#host.close();
      go();
    });
  }
}
