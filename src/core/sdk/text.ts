/** What a model knows about text: its tokenizer, its chat template, and the rules that join them. */
import type { SamplingParams, TokenDecoder } from '../engine/types.ts';
import { RequestValidationError, UnsupportedError } from '../errors.ts';
import { toolVariables } from '../text/toolVariables.ts';
import type { ReasoningControls } from './reasoning.ts';
import type { Tool } from './request.ts';
import type { TextMessage } from './validate.ts';

/** The part of a tokenizer that the SDK uses. */
export interface TextTokenizer {
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): Uint32Array;
  decode(ids: ArrayLike<number>, options?: { readonly skipSpecialTokens?: boolean }): string;
  /** Text as tokens come, special tokens left out. */
  createDecoder(): TokenDecoder;
  idOf(token: string): number | undefined;
  /** A token as the vocabulary spells it. */
  tokenOf(id: number): string | undefined;
  /** The spelling of every token. */
  tokens(): Iterable<string>;
  isSpecial(id: number): boolean;
}

/** The part of a chat template that the SDK uses. Messages are those of the SDK. */
export interface TextTemplate {
  readonly source: string;
  render(messages: readonly unknown[], options: Readonly<Record<string, unknown>>): string;
}

export interface ModelTextParts {
  readonly tokenizer: TextTokenizer;
  readonly template?: TextTemplate | undefined;
  /** Text of the token that begins a sequence, where the model has one. */
  readonly bosToken?: string | undefined;
  /** The tokenizer's own end tokens. */
  readonly eosIds?: readonly number[] | undefined;
}

export interface PromptOptions {
  readonly tools?: readonly Tool[] | undefined;
  readonly addGenerationPrompt?: boolean | undefined;
  readonly addSpecialTokens?: boolean | undefined;
  readonly reasoning: ReasoningControls;
}

/** Tokens that end a turn in common templates; they count where template and vocabulary both have them. */
const TURN_ENDS = ['<|im_end|>', '<end_of_turn>', '<|end_of_text|>', '<|end|>', '<|eot_id|>'];
const DRY_BREAKERS = ['\n', ':', '"', '*'];
/** Markers of fill-in-the-middle, and in which order they stand. */
const FILL_MARKS = [
  ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>', 'prefix first'],
  ['<fim_prefix>', '<fim_suffix>', '<fim_middle>', 'prefix first'],
  ['<fim-prefix>', '<fim-suffix>', '<fim-middle>', 'prefix first'],
  ['<｜fim▁begin｜>', '<｜fim▁hole｜>', '<｜fim▁end｜>', 'prefix first'],
  ['▁<PRE>', '▁<SUF>', '▁<MID>', 'prefix first'],
  ['[PREFIX]', '[SUFFIX]', undefined, 'suffix first'],
] as const;

/** Tokenizer and template of one model. */
export class ModelText {
  readonly tokenizer: TextTokenizer;
  readonly template: TextTemplate | undefined;
  readonly #bosToken: string | undefined;
  readonly #eosIds: readonly number[];
  #sorted: string[] | undefined;

  constructor(parts: ModelTextParts) {
    this.tokenizer = parts.tokenizer;
    this.template = parts.template;
    this.#bosToken = parts.bosToken;
    this.#eosIds = parts.eosIds ?? [];
  }

  /** The token that begins a sequence, where the model has one. */
  get bosId(): number | undefined {
    return this.#bosToken === undefined ? undefined : this.tokenizer.idOf(this.#bosToken);
  }

  /** Ids that end an answer, besides those the checkpoint's generation defaults name. */
  endIds(): number[] {
    const source = this.template?.source ?? '';
    const turnEnds = TURN_ENDS.filter((t) => source.includes(t)).flatMap((t) => this.tokenizer.idOf(t) ?? []);
    return [...this.#eosIds, ...turnEnds];
  }

  /** The prompt of a chat as text. */
  render(messages: readonly TextMessage[], options: PromptOptions): string {
    if (!this.template) {
      throw new RequestValidationError(
        'no_chat_template',
        'chat: expected a model with a chat template, got none; pass one as `chatTemplate`, or use `complete`',
      );
    }
    const { enableThinking, reasoningEffort } = options.reasoning;
    return this.template.render(messages, {
      ...(options.tools && options.tools.length > 0 ? { tools: options.tools } : {}),
      ...toolVariables(this.template.source, options.tools),
      addGenerationPrompt: options.addGenerationPrompt ?? true,
      enableThinking,
      ...(reasoningEffort === undefined
        ? {}
        : { reasoning_effort: reasoningEffort, reasoning_strength: reasoningEffort }),
    });
  }

  /** The prompt of a chat as ids. A template that writes the begin token itself gets no second one. */
  encodeChat(messages: readonly TextMessage[], options: PromptOptions): Uint32Array {
    const text = this.render(messages, options);
    const bos = this.#bosToken;
    const doubled = bos !== undefined && bos !== '' && text.startsWith(bos);
    return this.tokenizer.encode(text, { addSpecialTokens: (options.addSpecialTokens ?? true) && !doubled });
  }

  /** The prompt that asks for what stands between two texts, or `undefined` where the model has no tokens for that. */
  encodeFill(prefix: string, suffix: string): Uint32Array | undefined {
    const plain = (text: string) => this.tokenizer.encode(text, { addSpecialTokens: false });
    for (const [pre, suf, mid, order] of FILL_MARKS) {
      const [p, s] = [this.tokenizer.idOf(pre), this.tokenizer.idOf(suf)];
      const m = mid === undefined ? undefined : this.tokenizer.idOf(mid);
      if (p === undefined || s === undefined || (mid !== undefined && m === undefined)) continue;
      // What the tokenizer puts in front of every text stays in front.
      const ids = this.tokenizer.encode('');
      const head = ids.length > 0 && ids[0] === this.bosId;
      const begin = head ? [ids[0] as number] : [];
      return order === 'prefix first'
        ? Uint32Array.from([...begin, p, ...plain(prefix), s, ...plain(suffix), ...(m === undefined ? [] : [m])])
        : Uint32Array.from([...begin, s, ...plain(suffix), p, ...plain(prefix)]);
    }
    return undefined;
  }

  /** The text of one token. */
  readonly spell = (id: number): string => this.tokenizer.decode([id]);

  /** Stop strings that are one special token: special tokens have no text, so they are found by id. */
  stopIds(sampling: SamplingParams): number[] {
    const { stopToks } = sampling;
    if (!stopToks || !('seqs' in stopToks)) return [];
    return stopToks.seqs.flatMap((text) => {
      const id = this.tokenizer.idOf(text);
      return id !== undefined && this.tokenizer.isSpecial(id) ? id : [];
    });
  }

  /** Refuses stop ids whose text begins a longer token: generation would run past them. */
  checkStopIds(sampling: SamplingParams): void {
    const { stopToks } = sampling;
    if (!stopToks || !('ids' in stopToks) || stopToks.ids.length === 0) return;
    const sorted = (this.#sorted ??= [...this.tokenizer.tokens()].sort());
    for (const id of stopToks.ids) {
      if (this.tokenizer.isSpecial(id)) continue;
      const text = this.tokenizer.tokenOf(id);
      if (text === undefined || text === '') continue;
      const longer = firstLonger(sorted, text);
      if (longer !== undefined) {
        throw new RequestValidationError(
          'stop_prefix',
          `sampling.stopToks.ids: expected a token that begins no other one, got ${id} (${JSON.stringify(text)} begins ` +
            `${JSON.stringify(longer)}); use a stop string`,
        );
      }
    }
  }

  /** Breaker texts of the repetition penalty as ids: the last token of encoding "a" + breaker. */
  dryBreakers(sampling: SamplingParams): number[] | undefined {
    if (!sampling.dryParams) return undefined;
    const breakers = sampling.dryParams.sequenceBreakers ?? DRY_BREAKERS;
    return breakers.flatMap((b) => this.tokenizer.encode(`a${b}`, { addSpecialTokens: false }).at(-1) ?? []);
  }
}

/** The first text in rising order that begins with `prefix` and is longer. */
function firstLonger(sorted: readonly string[], prefix: string): string | undefined {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if ((sorted[mid] as string) <= prefix) low = mid + 1;
    else high = mid;
  }
  const next = sorted[low];
  return next?.startsWith(prefix) ? next : undefined;
}

/** The error of text methods on a model that was loaded without a tokenizer. */
export function noTokenizer(what: string): UnsupportedError {
  return new UnsupportedError(
    `${what}: the model has no tokenizer; pass token ids, or load one with \`tokenizerJson\``,
    {
      feature: 'tokenizer',
    },
  );
}
