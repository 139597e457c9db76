import './style/base.css';
import './style/panel.css';
import './style/page.css';
import './style/chat.css';
// Last: it overrides what wide screens have.
import './style/narrow.css';
import { Chat } from './chat.ts';
import { bytes, element, h } from './dom.ts';
import { Engine } from './engine.ts';
import { Loader, showTrouble } from './loading.ts';
import type { LoadedModel } from './protocol.ts';
import { Settings } from './settings.ts';
import { skyPicture } from './sky.ts';
import { Stats } from './stats.ts';

type State = 'empty' | 'loading' | 'loaded';

const engine = new Engine();
const settings = new Settings();
const stats = new Stats();
const chat = new Chat(engine, settings, stats);
new Loader(engine, settings, {
  onLoading: () => show('loading', undefined),
  onLoaded(model) {
    show('loaded', model);
    void showKept();
  },
  onFailed() {
    show('empty', undefined);
    void showKept();
  },
});

for (const sky of document.querySelectorAll('.sky')) sky.append(skyPicture());
element('unload').addEventListener('click', async () => {
  chat.use(undefined);
  await engine.unload();
  show('empty', undefined);
});
for (const button of document.querySelectorAll('[data-action="new-chat"]')) {
  button.addEventListener('click', () => {
    chat.clear();
    element('prompt').focus();
  });
}
wirePanel();
showIsolation();
await showKept();

function show(state: State, model: LoadedModel | undefined): void {
  document.body.dataset['state'] = state;
  element('model-name').textContent = model?.name ?? (state === 'loading' ? 'Loading' : 'None yet');
  element('model-facts').replaceChildren(...(model === undefined ? [] : factsOf(model)));
  stats.show(model);
  chat.use(model);
  if (state === 'loaded') showTrouble();
}

function factsOf(model: LoadedModel): Node[] {
  const facts = {
    Architecture: model.architecture,
    ...(model.device === 'cpu' ? { SIMD: model.variant, Threads: String(model.threads) } : { Adapter: model.variant }),
    Context: `${model.contextLength} tokens`,
  };
  return Object.entries(facts).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)));
}

/** On narrow screens the panel is a sheet over the page; what lies below it is out of reach meanwhile. */
function wirePanel(): void {
  const open = element('open-panel');
  const set = (shown: boolean): void => {
    document.body.classList.toggle('panel-open', shown);
    open.setAttribute('aria-expanded', String(shown));
    document.querySelector('main')!.inert = shown;
    (shown ? element('close-panel') : open).focus();
  };
  open.addEventListener('click', () => set(true));
  element('close-panel').addEventListener('click', () => set(false));
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && document.body.classList.contains('panel-open')) set(false);
  });
  matchMedia('(min-width: 56rem)').addEventListener('change', () => {
    if (document.body.classList.contains('panel-open')) set(false);
  });
}

function showIsolation(): void {
  const threads = navigator.hardwareConcurrency;
  element('isolation').textContent = crossOriginIsolated
    ? `This page may use ${threads} threads.`
    : 'This page is not isolated from other origins, so one thread computes. The README says which headers to send.';
  element('device-hint').textContent =
    'gpu' in navigator ? 'Counts when a model is loaded.' : 'This browser offers no WebGPU.';
}

async function showKept(): Promise<void> {
  const models = await engine.call('kept', undefined);
  element('kept-list').replaceChildren(
    ...models.map(({ repo, bytes: size }) => {
      const remove = h('button', { type: 'button', class: 'quiet', 'aria-label': `Remove ${repo}` }, 'Remove');
      remove.addEventListener('click', async () => {
        await engine.call('forget', { repo });
        await showKept();
      });
      return h('li', {}, h('span', {}, repo), h('small', {}, bytes(size)), remove);
    }),
  );
  element('kept-hint').textContent = models.length > 0 ? '' : 'No downloads from the hub are kept.';
}
