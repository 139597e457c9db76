/** The conversation: what was said, the answer as it comes, and the field to say more. */
import { element, h } from './dom.ts';
import type { Engine } from './engine.ts';
import type { AnswerSummary, LoadedModel, Turn } from './protocol.ts';
import { MarkdownView } from './render.ts';
import type { Settings } from './settings.ts';
import type { Stats } from './stats.ts';

const SUGGESTIONS = [
  'What is the tramontane, and why is it cold?',
  'Write three lines about a clear winter morning.',
  'Explain how a sailing boat can go against the wind.',
];
/** Distance from the end, in pixels, within which the page follows a growing answer. */
const FOLLOW = 80;
const PROMPT_LINES_HEIGHT = 200;

const ENDINGS: Readonly<Record<string, string>> = {
  length: 'cut at the longest answer allowed',
  canceled: 'stopped',
};

export class Chat {
  readonly #engine: Engine;
  readonly #settings: Settings;
  readonly #stats: Stats;
  readonly #prompt = element<HTMLTextAreaElement>('prompt');
  #model: LoadedModel | undefined;
  #turns: Turn[] = [];
  #answering: AbortController | undefined;

  constructor(engine: Engine, settings: Settings, stats: Stats) {
    this.#engine = engine;
    this.#settings = settings;
    this.#stats = stats;
    element('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#send(this.#prompt.value);
    });
    element('stop').addEventListener('click', () => this.stop());
    this.#prompt.addEventListener('input', () => this.#fitPrompt());
    this.#prompt.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void this.#send(this.#prompt.value);
    });
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') this.stop();
    });
    for (const text of SUGGESTIONS) {
      const button = h('button', { type: 'button', class: 'suggestion' }, text);
      button.addEventListener('click', () => void this.#send(text));
      element('suggestions').append(button);
    }
  }

  /** The model that answers from now on, with a conversation of its own. */
  use(model: LoadedModel | undefined): void {
    this.stop();
    this.#model = model;
    this.#prompt.disabled = model === undefined;
    this.#prompt.placeholder =
      model === undefined
        ? 'Load a model to begin'
        : model.hasTemplate
          ? 'Write a message'
          : 'Begin a text: this model has no chat format and goes on with it';
    this.clear();
    if (model !== undefined) this.#prompt.focus();
  }

  clear(): void {
    this.stop();
    this.#turns = [];
    element('log').replaceChildren();
    element('empty-chat').hidden = false;
    this.#showState();
  }

  stop(): void {
    this.#answering?.abort();
  }

  async #send(text: string): Promise<void> {
    const content = text.trim();
    if (content === '' || this.#model === undefined || this.#answering !== undefined) return;
    this.#prompt.value = '';
    this.#fitPrompt();
    element('empty-chat').hidden = true;
    this.#turns.push({ role: 'user', content });
    element('log').append(
      h('article', { class: 'turn user' }, h('h3', { class: 'hidden' }, 'You'), h('p', {}, content)),
    );
    const turns = this.#turns;
    const answer = new Answer();
    element('log').append(answer.element);
    this.#scrollToEnd(true);
    const control = new AbortController();
    this.#answering = control;
    this.#showState();
    announce('The model is answering.');
    try {
      const summary = await this.#stream(turns, answer, control.signal);
      // After "new chat" the answer belongs to no conversation any more.
      if (this.#turns === turns) turns.push({ role: 'assistant', content: answer.text });
      this.#stats.update(summary);
      answer.end(noteOf(summary));
      announce(`${ENDINGS[summary.finishReason] === undefined ? 'Answer' : 'Part of an answer'}: ${answer.text}`);
    } catch (error) {
      answer.fail(error);
      if (this.#turns === turns) turns.pop();
    } finally {
      if (this.#answering === control) this.#answering = undefined;
      this.#showState();
      this.#scrollToEnd(false);
    }
  }

  #stream(turns: readonly Turn[], answer: Answer, signal: AbortSignal): Promise<AnswerSummary> {
    const asked = performance.now();
    let first = 0;
    let tokens = 0;
    let drawing = false;
    // However fast tokens come, the page is drawn once a frame.
    const draw = (): void => {
      drawing = false;
      answer.draw();
      this.#scrollToEnd(false);
      const seconds = (performance.now() - first) / 1000;
      if (tokens > 1 && seconds > 0.2) {
        this.#stats.update({ tokensPerSecond: (tokens - 1) / seconds, firstTokenMs: first - asked });
      }
    };
    return this.#engine.call(
      'ask',
      { turns: [...this.#settings.systemTurns, ...turns], ...this.#settings.request },
      {
        signal,
        onEvent: (event) => {
          if (tokens === 0) first = performance.now();
          tokens = event.tokens;
          answer.text += event.text;
          if (!drawing) requestAnimationFrame(draw);
          drawing = true;
        },
      },
    );
  }

  #showState(): void {
    const answering = this.#answering !== undefined;
    document.body.classList.toggle('answering', answering);
    element('stop').hidden = !answering;
    element('send').hidden = answering;
    element<HTMLButtonElement>('send').disabled = this.#model === undefined;
  }

  #fitPrompt(): void {
    this.#prompt.style.height = 'auto';
    this.#prompt.style.height = `${Math.min(PROMPT_LINES_HEIGHT, this.#prompt.scrollHeight)}px`;
  }

  /** Follows the answer, unless the reader has scrolled away from its end. */
  #scrollToEnd(always: boolean): void {
    const scroll = element('scroll');
    const away = scroll.scrollHeight - scroll.clientHeight - scroll.scrollTop;
    if (always || away < FOLLOW) scroll.scrollTop = scroll.scrollHeight;
  }
}

class Answer {
  readonly element: HTMLElement;
  text = '';
  readonly #prose = h('div', { class: 'prose' });
  readonly #view = new MarkdownView(this.#prose);
  readonly #note = h('p', { class: 'note' });

  constructor() {
    const waiting = h('span', { class: 'waiting', 'aria-hidden': 'true' }, h('i'), h('i'), h('i'));
    this.element = h(
      'article',
      { class: 'turn answer growing' },
      h('h3', { class: 'hidden' }, 'Model'),
      this.#prose,
      waiting,
      this.#note,
    );
  }

  draw(): void {
    this.#view.update(this.text);
  }

  end(note: string): void {
    this.draw();
    this.element.classList.remove('growing');
    const copy = h('button', { type: 'button', class: 'quiet' }, 'Copy');
    copy.addEventListener('click', async () => {
      await navigator.clipboard.writeText(this.text);
      copy.textContent = 'Copied';
      setTimeout(() => (copy.textContent = 'Copy'), 1500);
    });
    this.#note.replaceChildren(note, copy);
  }

  fail(error: unknown): void {
    this.draw();
    this.element.classList.remove('growing');
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    this.#note.replaceWith(h('p', { class: 'trouble', role: 'alert' }, h('strong', {}, name), ` ${message}`));
  }
}

function noteOf({ tokens, tokensPerSecond, finishReason }: AnswerSummary): string {
  const speed = tokensPerSecond > 0 ? `, ${tokensPerSecond.toFixed(1)} a second` : '';
  const ending = ENDINGS[finishReason];
  return `${tokens} ${tokens === 1 ? 'token' : 'tokens'}${speed}${ending === undefined ? '' : `, ${ending}`}`;
}

/** Said by screen readers; an answer is read once it is whole. */
export function announce(text: string): void {
  element('announcer').textContent = text;
}
