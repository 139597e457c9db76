/** Lets the host handle timers, input and messages between two steps. */

/**
 * A turn of the event loop by way of a message to oneself: unlike a timer it has no shortest delay, and it exists in every
 * runtime. The channels are kept while steps follow one another, and closed after, since they would keep a process alive.
 */
export class HostTurns {
  readonly #channels: MessageChannel[] = [];
  #resolve: (() => void) | undefined;
  #count = 0;

  next(): Promise<void> {
    // Two in turn: Node serves all messages of one channel, new ones included, before it looks at anything else.
    const which = this.#count++ % 2;
    const { port2 } = (this.#channels[which] ??= this.#open());
    return new Promise((resolve) => {
      this.#resolve = resolve;
      port2.postMessage(undefined);
    });
  }

  close(): void {
    for (const channel of this.#channels.splice(0)) channel.port1.close();
    this.#count = 0;
  }

  #open(): MessageChannel {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => this.#resolve?.();
    return channel;
  }
}
