/** Raw completions: what is asked of the engine, and what becomes of its answers. */
import type { ChoiceResult, GenerationRequest, GenerationResult } from '../engine/types.ts';
import { RequestValidationError, UnsupportedError } from '../errors.ts';
import type { GenerationDefaults } from './generationConfig.ts';
import { fillDefaults } from './generationConfig.ts';
import type { CompletionParams } from './request.ts';
import type { CompletionResponse, CompletionStreamResponse, ResponseHead, Spell } from './response.ts';
import { completionChunk, logprobsOf, withGeneration } from './response.ts';
import type { Piece } from './stream.ts';
import type { ModelText } from './text.ts';
import { noTokenizer } from './text.ts';
import { normalCompletion, promptIds } from './validate.ts';

export interface Completion {
  readonly request: GenerationRequest;
  /** Answers that are returned; more may be generated. */
  readonly choices: number;
  /** Whether the caller asked for log-probabilities. */
  readonly logprobs: boolean;
  /** Stands before and after each answer. */
  readonly before: string;
  readonly after: string;
  chunk(head: ResponseHead, piece: Piece): CompletionStreamResponse;
}

interface CompletionModel {
  readonly vocabSize: number;
  readonly text?: ModelText | undefined;
  readonly defaults?: GenerationDefaults | undefined;
}

export function prepareCompletion(
  model: CompletionModel,
  prompt: string | ArrayLike<number>,
  params: CompletionParams,
  mode: 'whole' | 'stream' = 'whole',
): Completion {
  const p = normalCompletion(params);
  const { text } = model;
  const sampling = model.defaults ? fillDefaults(p.sampling, model.defaults) : p.sampling;
  const choices = sampling.nChoices ?? 1;
  const best = p.bestOf ?? choices;
  if (best > choices && mode === 'stream') {
    throw new UnsupportedError(
      'bestOf: a stream cannot choose among finished answers; use `complete`, or leave it out',
      {
        feature: 'bestOf',
      },
    );
  }
  text?.checkStopIds(sampling);
  if (!text && sampling.stopToks && 'seqs' in sampling.stopToks) throw noTokenizer('sampling.stopToks.seqs');
  const { ids, filled } = encode(model, prompt, p.suffix);
  const before = p.echo === true ? echoed(text, prompt) : '';
  const after = p.suffix !== undefined && !filled ? p.suffix : '';
  const logprobs = p.logprobs === true;
  const started = new Set<number>();
  return {
    request: {
      prompt: ids,
      sampling: { ...sampling, nChoices: best },
      logprobs: logprobs || best > choices,
      logitsProcessors: p.logitsProcessors,
      seed: p.seed,
      truncateSequence: p.truncateSequence,
      createDecoder: text && (() => text.tokenizer.createDecoder()),
      dryBreakers: text?.dryBreakers(sampling),
      stopIds: text?.stopIds(sampling),
      trimStart: false,
      adapter: p.adapter,
    },
    choices,
    logprobs,
    before,
    after,
    chunk(head, piece) {
      const first = started.has(piece.index) ? '' : before;
      started.add(piece.index);
      const last = piece.finishReason === undefined ? '' : after;
      return completionChunk(head, { ...piece, text: first + piece.text + last }, text?.spell);
    },
  };
}

export function completionResponse(
  head: ResponseHead,
  result: GenerationResult,
  completion: Completion,
  spell: Spell,
): CompletionResponse {
  const ranked =
    result.choices.length > completion.choices
      ? [...result.choices].sort((a, b) => likelihood(b) - likelihood(a)).slice(0, completion.choices)
      : [...result.choices].sort((a, b) => a.index - b.index);
  return {
    ...withGeneration(head, result.adapterGeneration),
    object: 'text_completion',
    choices: ranked.map((choice, index) => ({
      finishReason: choice.finishReason,
      index,
      text: completion.before + choice.text + completion.after,
      tokenIds: choice.tokens,
      ...(completion.logprobs ? logprobsOf(choice, spell) : {}),
    })),
    usage: result.usage,
  };
}

/** Mean log-probability of a token, so that a longer answer is not worse for its length. */
function likelihood(choice: ChoiceResult): number {
  const entries = choice.logprobs ?? [];
  return entries.length === 0 ? Number.NEGATIVE_INFINITY : entries.reduce((n, e) => n + e.logprob, 0) / entries.length;
}

function encode({ text, vocabSize }: CompletionModel, prompt: string | ArrayLike<number>, suffix: string | undefined) {
  if (typeof prompt !== 'string') {
    const ids = promptIds(prompt, vocabSize);
    if (suffix !== undefined && !text) throw noTokenizer('suffix');
    const filled = suffix === undefined ? undefined : text?.encodeFill(text.tokenizer.decode(ids), suffix);
    return { ids: filled ?? ids, filled: filled !== undefined };
  }
  if (!text) throw noTokenizer('prompt text');
  const filled = suffix === undefined ? undefined : text.encodeFill(prompt, suffix);
  const ids = filled ?? text.tokenizer.encode(prompt, { addSpecialTokens: true });
  if (ids.length === 0)
    throw new RequestValidationError('empty_prompt', 'prompt: expected at least one token, got none');
  return { ids, filled: filled !== undefined };
}

function echoed(text: ModelText | undefined, prompt: string | ArrayLike<number>): string {
  if (typeof prompt === 'string') return prompt;
  if (!text) throw noTokenizer('echo');
  return text.tokenizer.decode(prompt, { skipSpecialTokens: true });
}
