/** What has to be given back, newest first. */
export class Releases {
  readonly #pending: (() => unknown)[] = [];

  /** Remembers a release; the result runs it early, and then it does not run again. */
  add(release: () => unknown): () => Promise<void> {
    let ran = false;
    const once = async (): Promise<void> => {
      if (ran) return;
      ran = true;
      await release();
    };
    this.#pending.push(once);
    return once;
  }

  /** Runs all of them; the first failure is thrown when all have run. */
  async run(): Promise<void> {
    let failure: { readonly error: unknown } | undefined;
    for (let release = this.#pending.pop(); release; release = this.#pending.pop()) {
      try {
        await release();
      } catch (error) {
        failure ??= { error };
      }
    }
    if (failure) throw failure.error;
  }
}
