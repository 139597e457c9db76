/** Getting a model into the page: the three ways, progress, and what to do when one fails. */
import { announce } from './chat.ts';
import { bytes, element, h } from './dom.ts';
import type { Engine } from './engine.ts';
import type { LoadEvent, LoadedModel, Source } from './protocol.ts';
import type { Settings } from './settings.ts';

const GGUF_MAGIC = 'GGUF';
/** `org/name`, with the file behind it if wished, as the hub's own addresses have it. */
const HUB_ADDRESS =
  /^(?:https:\/\/huggingface\.co\/)?([\w.-]+\/[\w.-]+)(?:\/(?:(?:resolve|blob)\/[^/]+\/)?(.+\.gguf))?\/?(?:[?#].*)?$/i;

export interface LoaderEvents {
  onLoading(): void;
  onLoaded(model: LoadedModel): void;
  /** After a failure or cancellation: no model is loaded. */
  onFailed(): void;
}

export class Loader {
  readonly #engine: Engine;
  readonly #settings: Settings;
  readonly #events: LoaderEvents;
  #loading: AbortController | undefined;

  constructor(engine: Engine, settings: Settings, events: LoaderEvents) {
    this.#engine = engine;
    this.#settings = settings;
    this.#events = events;
    element('load-embedded').addEventListener('click', () => void this.load({ kind: 'embedded' }));
    element('cancel-load').addEventListener('click', () => this.#loading?.abort());
    const file = element<HTMLInputElement>('file');
    file.addEventListener('change', () => {
      const [chosen] = file.files ?? [];
      file.value = '';
      if (chosen !== undefined) void this.#loadFile(chosen);
    });
    element('hub').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#loadHub();
    });
    this.#acceptDrops();
  }

  async load(source: Source): Promise<void> {
    if (this.#loading !== undefined) return;
    const control = new AbortController();
    this.#loading = control;
    showTrouble();
    element('choices').hidden = true;
    element('progress').hidden = false;
    element('progress-title').textContent = titleOf(source);
    showProgress(undefined);
    announce(titleOf(source));
    this.#events.onLoading();
    const { device, contextLength } = this.#settings;
    try {
      const model = await this.#engine.call(
        'load',
        { source, device, contextLength },
        { signal: control.signal, onEvent: showProgress },
      );
      this.#events.onLoaded(model);
      announce(`${model.name} is loaded.`);
    } catch (error) {
      this.#events.onFailed();
      if (!control.signal.aborted) this.#explain(error, source);
    } finally {
      this.#loading = undefined;
      element('choices').hidden = false;
      element('progress').hidden = true;
    }
  }

  /** Looks at the first bytes before anything that is loaded makes room. */
  async #loadFile(file: File): Promise<void> {
    const magic = await file
      .slice(0, GGUF_MAGIC.length)
      .text()
      .catch(() => undefined);
    if (magic === GGUF_MAGIC) return this.load({ kind: 'file', file });
    this.#events.onFailed();
    showTrouble(
      'FormatError',
      magic === undefined
        ? `${file.name}: could not be read. Choose it again.`
        : `${file.name}: expected a GGUF file, got something else. Models come as files that end in .gguf.`,
    );
  }

  #loadHub(): Promise<void> {
    const address = HUB_ADDRESS.exec(element<HTMLInputElement>('hub-repo').value.trim());
    if (address === null) {
      showTrouble('ConfigError', 'Expected organisation/repository, as the hub names its models.');
      return Promise.resolve();
    }
    const file = element<HTMLInputElement>('hub-file').value.trim();
    return this.load({
      kind: 'hub',
      repo: address[1]!,
      file: file === '' ? address[2] : file,
      keep: element<HTMLInputElement>('hub-keep').checked,
      endpoint: new URLSearchParams(location.search).get('hub') ?? undefined,
    });
  }

  #explain(error: unknown, source: Source): void {
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    const actions: [string, () => void][] = [];
    if (source.kind === 'hub' && source.keep && name === 'StorageError') {
      actions.push(['Load without keeping it', () => void this.load({ ...source, keep: false })]);
    } else if (name === 'ConnectionError' || /connection|download/.test(message)) {
      actions.push(['Try again', () => void this.load(source)]);
    }
    showTrouble(name, message, actions);
  }

  #acceptDrops(): void {
    const drop = element('drop');
    addEventListener('dragover', (event) => {
      event.preventDefault();
      drop.hidden = false;
    });
    addEventListener('dragleave', (event) => {
      if (event.relatedTarget === null) drop.hidden = true;
    });
    addEventListener('drop', (event) => {
      event.preventDefault();
      drop.hidden = true;
      const [file] = event.dataTransfer?.files ?? [];
      if (file !== undefined) void this.#loadFile(file);
    });
  }
}

/** Shows what went wrong, with what can be done; without arguments clears it. */
export function showTrouble(name?: string, message = '', actions: readonly [string, () => void][] = []): void {
  const box = element('trouble');
  box.hidden = name === undefined;
  box.replaceChildren();
  if (name === undefined) return;
  box.append(h('p', {}, h('strong', {}, name), ` ${message}`));
  for (const [label, act] of actions) {
    const button = h('button', { type: 'button', class: 'plain' }, label);
    button.addEventListener('click', act);
    box.append(button);
  }
}

function titleOf(source: Source): string {
  if (source.kind === 'embedded') return 'Loading SmolLM2 135M Instruct';
  return `Loading ${source.kind === 'file' ? source.file.name : source.repo}`;
}

function showProgress(event: LoadEvent | undefined): void {
  const meter = element('meter');
  const share = event === undefined || event.total === 0 ? undefined : event.done / event.total;
  meter.classList.toggle('unknown', share === undefined);
  const detail = element('progress-detail');
  if (event === undefined || share === undefined) {
    meter.removeAttribute('aria-valuenow');
    detail.textContent = 'Looking at its files';
    return;
  }
  meter.style.setProperty('--share', String(share));
  meter.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  const verb = event.stage === 'download' ? 'Downloading' : 'Reading weights';
  detail.textContent = `${verb}: ${bytes(event.done)} of ${bytes(event.total)}`;
}
