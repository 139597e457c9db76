/** An interactive chat in the terminal. */
import { createInterface, type Interface } from 'node:readline';
import { messageOf, RequestValidationError } from '../core/errors.ts';
import type { ChatMessage } from '../core/sdk/messages.ts';
import type { Model } from '../core/sdk/model.ts';
import type { AdapterSelection, SamplingParams } from '../core/sdk/request.ts';
import { answer } from './answer.ts';
import { real, whole } from './args.ts';
import type { RunFlags } from './flags.ts';
import { adapterOf, samplingOf } from './flags.ts';
import { History } from './history.ts';
import { dim, type Screen } from './terminal.ts';

/** Where a chat reads and writes. */
export interface ChatIo {
  readonly input: NodeJS.ReadableStream;
  readonly out: NodeJS.WritableStream & Screen;
  readonly notes: NodeJS.WritableStream & Screen;
  /** Line editing, keys and colours. */
  readonly terminal: boolean;
  readonly history: History | undefined;
}

const PROMPT = '> ';
const MORE = '. ';
const BLOCK = '"""';
/** Lines that come closer together than this were pasted: they are one message. */
const PASTE_MS = 25;

/** Used where neither the command line nor the checkpoint says otherwise. */
const CHAT_SAMPLING: SamplingParams = { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05 };

const HELP = `/help               this list
/clear              forget the conversation
/system [text]      set the system message and start over; without text, remove it
/temperature X      0 takes the most likely token
/adapter [name]     the LoRA adapter that answers: a name, or "none"; without it, those there are
/topk N, /topp X    keep the N most likely tokens, or those of total probability X
/exit               leave (also Ctrl-D, or Ctrl-C twice)
A line that ends in \\ goes on in the next one; ${BLOCK} starts and ends a block of lines.
Ctrl-C stops an answer.`;

/** Chats until the input ends; the result is the exit status. */
export async function chat(model: Model, flags: RunFlags, io: ChatIo = terminalIo()): Promise<number> {
  const session = new Session(model, flags, io);
  return session.run();
}

function terminalIo(): ChatIo {
  const { stdin, stdout, stderr } = process;
  return {
    input: stdin,
    out: stdout,
    notes: stdout.isTTY ? stdout : stderr,
    terminal: true,
    history: History.ofUser(),
  };
}

class Session {
  readonly #model: Model;
  readonly #flags: RunFlags;
  readonly #io: ChatIo;
  readonly #lines: Interface;
  readonly #queue: string[] = [];
  #wake: (() => void) | undefined;
  #closed = false;
  #messages: ChatMessage[] = [];
  #system: string | undefined;
  #sampling: SamplingParams;
  #adapter: AdapterSelection | undefined;
  /** Set while an answer runs. */
  #cancel: (() => void) | undefined;
  /** Ctrl-C at an empty prompt; the next one leaves. */
  #warned = false;

  constructor(model: Model, flags: RunFlags, io: ChatIo) {
    this.#model = model;
    this.#flags = flags;
    this.#io = io;
    this.#system = flags.system;
    this.#adapter = adapterOf(flags);
    const { generationDefaults } = model.config();
    const { temperature, topK, topP, minP } = generationDefaults ?? {};
    const own = [temperature, topK, topP, minP].some((x) => x !== undefined);
    this.#sampling = samplingOf(flags) ?? (own ? {} : CHAT_SAMPLING);
    this.#lines = createInterface({
      input: io.input,
      output: io.notes,
      terminal: io.terminal,
      history: io.history?.lines ?? [],
      historySize: History.size,
      removeHistoryDuplicates: true,
      prompt: PROMPT,
    });
  }

  async run(): Promise<number> {
    const lines = this.#lines;
    lines.on('line', (line) => {
      this.#queue.push(line);
      this.#wake?.();
    });
    lines.on('history', (entries: string[]) => this.#io.history?.keep(entries));
    lines.on('SIGINT', () => this.#interrupt());
    lines.on('close', () => {
      this.#closed = true;
      this.#wake?.();
    });
    this.#note(`${this.#model.config().kind} on ${this.#model.config().device}; /help lists the commands`);
    for (;;) {
      const text = await this.#message();
      if (text === undefined) break;
      if (text.trim() === '') continue;
      if (text.startsWith('/') && !text.includes('\n')) {
        if (this.#command(text.trim()) === 'leave') break;
      } else {
        await this.#answer(text);
      }
    }
    lines.close();
    this.#io.history?.save();
    return 0;
  }

  /** One message: a line, its continuations, a block, or what was pasted. `undefined` at the end of the input. */
  async #message(): Promise<string | undefined> {
    let line = await this.#line(PROMPT);
    if (line === undefined) return undefined;
    this.#warned = false;
    if (line.trim() === BLOCK) return this.#block();
    const parts: string[] = [];
    while (line?.endsWith('\\')) {
      parts.push(line.slice(0, -1));
      line = await this.#line(MORE);
    }
    if (line !== undefined) parts.push(line);
    if (this.#io.terminal) {
      await new Promise((resolve) => setTimeout(resolve, PASTE_MS));
      parts.push(...this.#queue.splice(0));
    }
    return parts.join('\n');
  }

  async #block(): Promise<string> {
    const parts: string[] = [];
    for (;;) {
      const line = await this.#line(MORE);
      if (line === undefined || line.trim() === BLOCK) return parts.join('\n');
      parts.push(line);
    }
  }

  async #line(prompt: string): Promise<string | undefined> {
    if (this.#queue.length === 0 && !this.#closed) {
      this.#lines.setPrompt(prompt);
      this.#lines.prompt();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    return this.#queue.shift();
  }

  #interrupt(): void {
    if (this.#cancel) {
      // The first stops the answer, the second leaves.
      if (this.#warned) this.#lines.close();
      this.#warned = true;
      this.#cancel();
    } else if (this.#lines.line !== '') {
      this.#lines.write(null, { ctrl: true, name: 'e' });
      this.#lines.write(null, { ctrl: true, name: 'u' });
    } else if (this.#warned) {
      this.#lines.close();
    } else {
      this.#warned = true;
      this.#note('\nCtrl-C again leaves');
      this.#lines.prompt();
    }
  }

  #command(text: string): 'leave' | undefined {
    const [name = '', ...rest] = text.split(/\s+/);
    const value = rest.join(' ');
    try {
      switch (name) {
        case '/help':
          this.#note(HELP);
          return undefined;
        case '/exit':
        case '/quit':
          return 'leave';
        case '/clear':
          this.#messages = [];
          this.#note('the conversation starts over');
          return undefined;
        case '/system':
          this.#system = value === '' ? undefined : value;
          this.#messages = [];
          this.#note('the conversation starts over');
          return undefined;
        case '/adapter':
          this.#chooseAdapter(value);
          return undefined;
        case '/temperature':
          return this.#set({ temperature: real(0)(value) });
        case '/topk':
          return this.#set({ topK: whole(0)(value) });
        case '/topp':
          return this.#set({ topP: real(0, 1)(value) });
        default:
          this.#note(`${name}: no such command; /help lists them`);
          return undefined;
      }
    } catch (error) {
      this.#note(`${name}: ${messageOf(error)}`);
      return undefined;
    }
  }

  #chooseAdapter(name: string): void {
    const known = this.#model.listLoraAdapters().map(({ alias }) => alias);
    if (name !== '' && name !== 'none' && name !== 'list') {
      if (!known.includes(name)) throw new Error(`expected one of ${[...known, 'none'].join(', ')}; got ${name}`);
      this.#adapter = name;
    } else if (name === 'none') {
      this.#adapter = undefined;
    }
    this.#note(`adapters: ${known.join(', ') || 'none'}; ${this.#adapter ?? 'none'} answers`);
  }

  #set(params: SamplingParams): undefined {
    this.#sampling = { ...this.#sampling, ...params };
    this.#note(JSON.stringify(this.#sampling));
  }

  async #answer(text: string): Promise<void> {
    const user = { role: 'user', content: text };
    try {
      for (;;) {
        try {
          const result = await this.#ask([...this.#messages, user]);
          this.#messages.push(user, { role: 'assistant', content: result.text });
          return;
        } catch (error) {
          const full = error instanceof RequestValidationError && error.code === 'prompt_too_long';
          if (!full || this.#messages.length === 0) throw error;
          this.#messages.splice(0, 2);
          this.#note('the context is full: the oldest question and its answer are forgotten');
        }
      }
    } catch (error) {
      this.#note(`${error instanceof Error ? error.name : 'error'}: ${messageOf(error)}`);
    }
  }

  async #ask(messages: readonly ChatMessage[]) {
    const { thinking, reasoningEffort, seed, maxTokens } = this.#flags;
    const system = this.#system === undefined ? [] : [{ role: 'system', content: this.#system }];
    const stream = this.#model.streamChatRequest({
      messages: [...system, ...messages],
      sampling: { ...this.#sampling, ...(maxTokens === undefined ? {} : { maxLen: maxTokens }) },
      ...(seed === undefined ? {} : { seed }),
      ...(this.#adapter === undefined ? {} : { adapter: this.#adapter }),
      ...(thinking === undefined ? {} : { enableThinking: thinking }),
      // Checked with the request, which names the words allowed.
      ...(reasoningEffort === undefined ? {} : { reasoningEffort: reasoningEffort as never }),
    });
    this.#cancel = () => stream.cancel();
    try {
      return await answer(stream, this.#io.out, this.#flags.quiet ? undefined : this.#io.notes);
    } finally {
      this.#cancel = undefined;
      this.#warned = false;
    }
  }

  #note(text: string): void {
    this.#io.notes.write(`${dim(text, this.#io.notes, process.env['NO_COLOR'] !== undefined)}\n`);
  }
}
