/** A model without weights: a byte tokenizer, a small template and a runner whose answers are a function of the history. */
import type { PackedBatch } from '../../src/core/engine/batch.ts';
import { Engine } from '../../src/core/engine/engine.ts';
import type { ModelRunner, TokenDecoder } from '../../src/core/engine/types.ts';
import type { GenerationDefaults } from '../../src/core/sdk/generationConfig.ts';
import { Model } from '../../src/core/sdk/model.ts';
import type { TextTemplate, TextTokenizer } from '../../src/core/sdk/text.ts';
import { ModelText } from '../../src/core/sdk/text.ts';
import { hostTurn } from '../../src/platform/yield.ts';

export const BOS = 256;
export const EOS = 257;
export const TURN_END = 258;
const FIM = [259, 260, 261] as const;
export const VOCAB = 264;
const SPECIAL = new Map<string, number>([
  ['<s>', BOS],
  ['</s>', EOS],
  ['<|im_end|>', TURN_END],
  ['<|fim_prefix|>', FIM[0]],
  ['<|fim_suffix|>', FIM[1]],
  ['<|fim_middle|>', FIM[2]],
]);
const NAMES = new Map([...SPECIAL].map(([text, id]) => [id, text]));

/** One token for each byte of UTF-8, and the special tokens. */
export class ByteTokenizer implements TextTokenizer {
  readonly #withFill: boolean;
  constructor(withFill = false) {
    this.#withFill = withFill;
  }

  encode(text: string, { addSpecialTokens = true } = {}): Uint32Array {
    const ids: number[] = addSpecialTokens ? [BOS] : [];
    for (const part of text.split(/(<s>|<\/s>|<\|[a-z_]+\|>)/)) {
      const id = SPECIAL.get(part);
      if (id !== undefined) ids.push(id);
      else ids.push(...new TextEncoder().encode(part));
    }
    return Uint32Array.from(ids);
  }

  decode(ids: ArrayLike<number>, { skipSpecialTokens = false } = {}): string {
    let text = '';
    let bytes: number[] = [];
    const flush = () => {
      text += new TextDecoder().decode(Uint8Array.from(bytes));
      bytes = [];
    };
    for (const id of Array.from(ids)) {
      if (id < 256) bytes.push(id);
      else {
        flush();
        if (!skipSpecialTokens) text += NAMES.get(id) ?? '';
      }
    }
    flush();
    return text;
  }

  createDecoder(): TokenDecoder {
    const utf8 = new TextDecoder();
    const some = (text: string) => (text === '' ? undefined : text);
    return {
      push: (id) => (id < 256 ? some(utf8.decode(Uint8Array.of(id), { stream: true })) : undefined),
      flush: () => some(utf8.decode()),
    };
  }

  idOf(token: string): number | undefined {
    const id = SPECIAL.get(token);
    if (id !== undefined) return FIM.some((f) => f === id) && !this.#withFill ? undefined : id;
    const bytes = new TextEncoder().encode(token);
    return bytes.length === 1 ? bytes[0] : undefined;
  }

  tokenOf(id: number): string | undefined {
    return NAMES.get(id) ?? String.fromCharCode(id);
  }

  *tokens(): Iterable<string> {
    for (let id = 0; id < VOCAB; id++) yield this.tokenOf(id) ?? '';
    yield 'qu';
  }

  isSpecial(id: number): boolean {
    return NAMES.has(id);
  }
}

/** `role:content` lines; the begin token is part of the text when `withBos`. */
export function lineTemplate(withBos = false): TextTemplate & { last: Record<string, unknown> | undefined } {
  const template = {
    source: 'messages <|im_end|>',
    last: undefined as Record<string, unknown> | undefined,
    render(messages: readonly unknown[], options: Readonly<Record<string, unknown>>): string {
      template.last = { ...options, messages };
      const lines = (messages as { role: string; content: string }[]).map((m) => `${m.role}:${m.content}\n`);
      return `${withBos ? '<s>' : ''}${lines.join('')}${options['addGenerationPrompt'] ? 'assistant:' : ''}`;
    },
  };
  return template;
}

export function fakeText(options: { withBos?: boolean; fill?: boolean; template?: boolean } = {}): ModelText {
  return new ModelText({
    tokenizer: new ByteTokenizer(options.fill),
    template: options.template === false ? undefined : lineTemplate(options.withBos),
    bosToken: '<s>',
  });
}

/** The next token after a history of tokens. */
export type Script = (history: readonly number[]) => number;

/** Answers after `assistant:` (or after a raw prompt) with fixed text, then the end of the turn. */
export function says(text: string, end = TURN_END): Script {
  const bytes = new TextEncoder().encode(text);
  return (history) => {
    const marker = new TextEncoder().encode('assistant:');
    let at = history.length;
    for (let i = history.length; i >= marker.length; i--) {
      if (marker.every((b, k) => history[i - marker.length + k] === b)) {
        at = i;
        break;
      }
    }
    return bytes[history.length - at] ?? end;
  };
}

/** Keeps tokens in a cache of blocks as a real model keeps keys and values, and reads the history back from there. */
export class ScriptRunner implements ModelRunner {
  readonly vocabSize = VOCAB;
  readonly contextLength: number;
  readonly blockSize = 8;
  readonly blocks = 256;
  readonly maxRows = 64;
  readonly maxSequences = 16;
  readonly maxLogitRows = 64;
  readonly #slots = new Int32Array(this.blocks * this.blockSize).fill(-1);
  readonly #script: Script;
  readonly #logits = new Float32Array(this.maxLogitRows * VOCAB);
  steps = 0;
  /** Throws in this step. */
  failAt: number | undefined;
  /** Awaited before every step. */
  gate: (() => Promise<void>) | undefined;

  constructor(script: Script, contextLength = 512) {
    this.#script = script;
    this.contextLength = contextLength;
  }

  async forward(b: PackedBatch): Promise<Float32Array> {
    this.steps++;
    if (this.gate) await this.gate();
    else await Promise.resolve();
    if (this.failAt === this.steps) throw new Error('the kernel failed');
    const size = this.blockSize;
    for (let i = 0; i < b.copyCount; i++) {
      const [from, to] = [b.copies[2 * i]!, b.copies[2 * i + 1]!];
      this.#slots.copyWithin(to * size, from * size, (from + 1) * size);
    }
    for (let r = 0; r < b.rows; r++) this.#slots[b.slots[r]!] = b.tokens[r]!;
    let next = 0;
    for (let s = 0; s < b.sequences; s++) {
      for (let r = b.seqStart[s]!; r < b.seqStart[s + 1]!; r++) {
        if (b.logitRows[next] !== r || next >= b.logitCount) continue;
        const history = Array.from({ length: b.positions[r]! + 1 }, (_, p) => {
          const block = b.blockTable[s * b.blocksPerSequence + Math.floor(p / size)]!;
          return this.#slots[block * size + (p % size)]!;
        });
        const row = this.#logits.subarray(next * VOCAB, (next + 1) * VOCAB);
        row.fill(0);
        row[this.#script(history)] = 10;
        next++;
      }
    }
    return this.#logits.subarray(0, b.logitCount * VOCAB);
  }
}

export interface Fake {
  readonly model: Model;
  readonly runner: ScriptRunner;
  readonly warnings: string[];
}

/** A model over the real engine and a script. */
export function fakeModel(
  script: Script,
  options: { text?: ModelText | undefined; defaults?: GenerationDefaults; context?: number } = {},
): Fake {
  const runner = new ScriptRunner(script, options.context);
  const text = 'text' in options ? options.text : fakeText();
  const engine = new Engine(runner, { eosIds: [EOS, ...(text?.endIds() ?? [])], yieldToHost: hostTurn() });
  const warnings: string[] = [];
  const model = new Model({
    name: 'fake',
    aliases: ['default'],
    info: {
      kind: 'Fake',
      device: 'none',
      category: 'text',
      modalities: { input: ['text'], output: ['text'] },
      maxSeqLen: runner.contextLength,
      vocabSize: VOCAB,
      hasTokenizer: text !== undefined,
      hasChatTemplate: text?.template !== undefined,
      backend: { name: 'none', threads: 1, simd: 'off', reason: 'test' },
    },
    engine,
    text,
    defaults: options.defaults,
    warn: (m) => warnings.push(m),
    memory: () => ({ persistent: 3, arena: 4 }),
    dispose: async () => engine.dispose(),
  });
  return { model, runner, warnings };
}
