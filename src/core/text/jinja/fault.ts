/** Errors and limits of a rendering. */

/** An operation that Python or the template engine would refuse. Becomes a `RequestValidationError` where rendering ends. */
export class Fault extends Error {
  /** Whether filters that have a default for values they cannot read may use it. */
  readonly recoverable: boolean;
  constructor(message: string, recoverable = false) {
    super(message);
    this.recoverable = recoverable;
  }
}

/** A value that is not of a kind or range that an operation takes. */
export function unfit(message: string): Fault {
  return new Fault(message, true);
}

/** Work of one rendering; a conversation of a thousand turns stays below a hundredth of it. */
const MAX_STEPS = 30_000_000;
/** The longest text, in UTF-16 units: prompts of ten million tokens fit. */
export const MAX_TEXT = 2 ** 26;
export const MAX_ITEMS = 2 ** 20;
/** Macros and recursive loops within each other. */
const MAX_DEPTH = 200;
/** Copying this many characters is one step. */
const CHARS_PER_STEP = 16;

/** Counts the work of a rendering, so that no template runs or grows without end. */
export class Budget {
  #left = MAX_STEPS;
  #depth = 0;

  step(count = 1): void {
    this.#left -= count;
    if (this.#left < 0) throw new Fault(`expected a rendering within ${MAX_STEPS} steps, got more`);
  }

  /** To be called before a text of this length is made. */
  text(length: number): void {
    if (!(length <= MAX_TEXT)) throw new Fault(`expected texts of at most ${MAX_TEXT} characters, got ${length}`);
    this.step(1 + Math.floor(length / CHARS_PER_STEP));
  }

  /** To be called before a list of this length is made. */
  items(length: number): void {
    if (!(length <= MAX_ITEMS)) throw new Fault(`expected lists of at most ${MAX_ITEMS} items, got ${length}`);
    this.step(length);
  }

  /** Runs what may call itself. */
  nested<T>(body: () => T): T {
    if (++this.#depth > MAX_DEPTH) throw new Fault(`expected at most ${MAX_DEPTH} calls within each other, got more`);
    try {
      return body();
    } finally {
      this.#depth--;
    }
  }
}
