/** The strip of measurements below the message field. */
import { bytes, element, h } from './dom.ts';
import type { LoadedModel } from './protocol.ts';

export interface Measured {
  readonly tokensPerSecond?: number | undefined;
  readonly firstTokenMs?: number | undefined;
  readonly memoryBytes?: number | undefined;
}

export class Stats {
  #model: LoadedModel | undefined;
  #measured: Measured = {};
  readonly #values = new Map<string, HTMLElement>();

  /** Starts anew for a model; without one the strip is empty. */
  show(model: LoadedModel | undefined): void {
    this.#model = model;
    this.#measured = { memoryBytes: model?.memoryBytes };
    this.#values.clear();
    element('stats').replaceChildren();
    this.#draw();
  }

  update(measured: Measured): void {
    this.#measured = { ...this.#measured, ...measured };
    this.#draw();
  }

  #draw(): void {
    const model = this.#model;
    if (model === undefined) return;
    const { tokensPerSecond, firstTokenMs, memoryBytes } = this.#measured;
    this.#set('Speed', tokensPerSecond ? `${tokensPerSecond.toFixed(1)} tokens/s` : '–');
    this.#set('First token', firstTokenMs ? `${(firstTokenMs / 1000).toFixed(2)} s` : '–');
    this.#set('Back-end', backendOf(model));
    this.#set('Memory', memoryBytes === undefined ? '–' : bytes(memoryBytes));
  }

  #set(name: string, text: string): void {
    let value = this.#values.get(name);
    if (value === undefined) {
      value = h('dd');
      this.#values.set(name, value);
      element('stats').append(h('div', {}, h('dt', {}, name), value));
    }
    if (value.textContent !== text) value.textContent = text;
  }
}

function backendOf({ device, threads }: LoadedModel): string {
  const name = device === 'cpu' ? 'CPU' : device === 'webgpu' ? 'WebGPU' : device;
  return device === 'cpu' ? `${name}, ${threads} ${threads === 1 ? 'thread' : 'threads'}` : name;
}
