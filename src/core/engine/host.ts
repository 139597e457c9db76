/** Lets the host handle timers, input and messages between two steps. */

/**
 * A turn of the event loop by way of a message to oneself: unlike a timer it has no shortest delay, and it exists in every
 * runtime. The channel is kept while steps follow one another, and closed after, since it would keep a process alive.
 */
export class HostTurns {
  #channel: MessageChannel | undefined;
  #resolve: (() => void) | undefined;

  next(): Promise<void> {
    if (this.#channel === undefined) {
      this.#channel = new MessageChannel();
      this.#channel.port1.onmessage = () => this.#resolve?.();
    }
    const { port2 } = this.#channel;
    return new Promise((resolve) => {
      this.#resolve = resolve;
      port2.postMessage(undefined);
    });
  }

  close(): void {
    this.#channel?.port1.close();
    this.#channel = undefined;
  }
}
