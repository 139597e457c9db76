/** From tokens to the text a reader sees: stop strings are cut, and never shown in part. */
import type { TokenDecoder } from './types.ts';

/** How far each stop string has matched, for one text (Knuth, Morris, Pratt). */
export class StopMatcher {
  readonly #stops: readonly string[];
  /** Longest proper prefix of `stop[0..i]` that is also its suffix. */
  readonly #fallbacks: readonly Int32Array[];
  readonly #matched: Int32Array;
  #held = '';

  /** Strings are not empty. */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
    this.#fallbacks = stops.map(fallbacksOf);
    this.#matched = new Int32Array(stops.length);
  }

  /** True once a stop string is complete; later text is dropped. */
  stopped = false;

  /**
   * Takes more text and returns what is certain to be shown. The text ends where the first stop string to be complete
   * begins; of several that end together, the longest one counts. So the result does not depend on where `text` was cut.
   */
  push(text: string): string {
    if (this.stopped) return '';
    if (this.#stops.length === 0) return text;
    const all = this.#held + text;
    for (let i = this.#held.length; i < all.length; i++) {
      const complete = this.#advance(all.charCodeAt(i));
      if (complete > 0) {
        this.stopped = true;
        this.#held = '';
        return all.slice(0, i + 1 - complete);
      }
    }
    let hold = 0;
    for (let s = 0; s < this.#matched.length; s++) hold = Math.max(hold, this.#matched[s]!);
    this.#held = all.slice(all.length - hold);
    return all.slice(0, all.length - hold);
  }

  /** What is still held back, once no text follows. */
  flush(): string {
    const rest = this.#held;
    this.#held = '';
    this.#matched.fill(0);
    return rest;
  }

  /** Length of the longest stop string that ends with this code unit, or 0. */
  #advance(unit: number): number {
    let complete = 0;
    for (let s = 0; s < this.#stops.length; s++) {
      const stop = this.#stops[s]!;
      const fallback = this.#fallbacks[s]!;
      let matched = this.#matched[s]!;
      while (matched > 0 && stop.charCodeAt(matched) !== unit) matched = fallback[matched - 1]!;
      if (stop.charCodeAt(matched) === unit) matched++;
      this.#matched[s] = matched;
      if (matched === stop.length) complete = Math.max(complete, matched);
    }
    return complete;
  }
}

function fallbacksOf(stop: string): Int32Array {
  const fallback = new Int32Array(stop.length);
  let matched = 0;
  for (let i = 1; i < stop.length; i++) {
    while (matched > 0 && stop[matched] !== stop[i]) matched = fallback[matched - 1]!;
    if (stop[matched] === stop[i]) matched++;
    fallback[i] = matched;
  }
  return fallback;
}

export interface OutputTextOptions {
  readonly decoder: TokenDecoder | undefined;
  readonly stops: readonly string[];
  readonly trimStart: boolean;
}

/** The text of one choice: decoder, then stop strings, then leading white space dropped. */
export class OutputText {
  readonly #decoder: TokenDecoder | undefined;
  readonly #matcher: StopMatcher;
  #trimming: boolean;

  constructor(options: OutputTextOptions) {
    this.#decoder = options.decoder;
    this.#matcher = new StopMatcher(options.stops);
    this.#trimming = options.trimStart;
  }

  /** A stop string is complete: the choice ends. */
  get stopped(): boolean {
    return this.#matcher.stopped;
  }

  /** The text that became certain with `token`. */
  push(token: number): string {
    return this.#decoder === undefined ? '' : this.#show(this.#decoder.push(token));
  }

  /** The rest of the text, once no token follows. */
  finish(): string {
    if (this.#decoder === undefined) return '';
    const last = this.#show(this.#decoder.flush());
    return last + this.#trim(this.#matcher.flush());
  }

  #show(text: string | undefined): string {
    return text === undefined || text === '' ? '' : this.#trim(this.#matcher.push(text));
  }

  #trim(text: string): string {
    if (!this.#trimming) return text;
    const rest = text.trimStart();
    if (rest !== '') this.#trimming = false;
    return rest;
  }
}
