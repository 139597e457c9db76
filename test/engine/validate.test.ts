import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { GenerationRequest, SamplingParams } from '../../src/core/engine/types.ts';
import { checkPrompt, checkRequest } from '../../src/core/engine/validate.ts';
import { RequestValidationError } from '../../src/core/errors.ts';

const limits = { vocabSize: 100, contextLength: 16 };

function refusal(request: Partial<GenerationRequest>): RequestValidationError | undefined {
  try {
    checkRequest({ prompt: [1, 2, 3], ...request }, limits);
  } catch (error) {
    if (error instanceof RequestValidationError) return error;
    throw error;
  }
  return undefined;
}

describe('checkRequest', () => {
  it('takes what is in range', () => {
    expect(refusal({})).toBeUndefined();
    const sampling: SamplingParams = {
      temperature: 0,
      topK: -1,
      topP: 7,
      minP: -1,
      maxLen: 1,
      nChoices: 40,
      topNLogprobs: 0,
      frequencyPenalty: -2,
      stopToks: { seqs: ['a'] },
      dryParams: {},
    };
    expect(refusal({ sampling, seed: -5 })).toBeUndefined();
    expect([...checkRequest({ prompt: Uint8Array.of(0, 99) }, limits)]).toEqual([0, 99]);
  });

  it.each<[string, Partial<GenerationRequest>, string]>([
    ['empty_prompt', { prompt: [] }, 'got none'],
    ['invalid_token', { prompt: [1, 100] }, 'prompt[1]: expected a token id from 0 to 99, got 100'],
    ['invalid_token', { prompt: [-1] }, 'got -1'],
    ['invalid_token', { prompt: [1.5] }, 'got 1.5'],
    ['invalid_token', { prompt: { length: 3 } }, 'got undefined'],
    ['prompt_too_long', { prompt: new Array(17).fill(1) }, 'expected at most 16 tokens, got 17'],
    ['prompt_too_long', { prompt: { length: 2 ** 40 } }, 'got 1099511627776'],
    ['max_tokens_zero', { sampling: { maxLen: 0 } }, 'got 0'],
    ['invalid_request', { sampling: { maxLen: -1 } }, 'maxLen'],
    ['invalid_request', { sampling: { maxLen: 1.5 } }, 'maxLen'],
    ['n_zero', { sampling: { nChoices: 0 } }, 'got 0'],
    ['invalid_request', { sampling: { nChoices: 1e9 } }, 'from 1 to 1024, got 1000000000'],
    ['invalid_request', { sampling: { topNLogprobs: 1e9 } }, 'topNLogprobs'],
    ['invalid_request', { sampling: { topK: 1.5 } }, 'topK'],
    ['invalid_request', { sampling: { temperature: Number.NaN } }, 'temperature'],
    ['invalid_request', { sampling: { topP: Number.POSITIVE_INFINITY } }, 'topP'],
    ['invalid_request', { sampling: { repetitionPenalty: 0 } }, 'repetitionPenalty'],
    ['invalid_request', { sampling: { dryParams: { base: Number.NaN } } }, 'dryParams.base'],
    ['invalid_request', { sampling: { stopToks: { seqs: ['a', ''] } } }, 'stopToks.seqs[1]'],
    ['invalid_request', { sampling: { stopToks: { seqs: ['x'.repeat(5000)] } } }, 'at most 4096'],
    ['invalid_request', { sampling: { stopToks: { seqs: new Array(300).fill('a') } } }, 'at most 256'],
    ['invalid_request', { seed: 0.5 }, 'seed'],
    ['invalid_request', { seed: 2 ** 60 }, 'seed'],
  ])('%s: %j', (code, request, message) => {
    const error = refusal(request);
    expect(error?.code).toBe(code);
    expect(error?.message).toContain(message);
  });
});

describe('a cache that holds less than the model takes', () => {
  const small = { ...limits, cacheLimit: { modelLength: 40, memoryFor: (n: number) => 10 * n } };
  const ask = (length: number, maxLen?: number, truncateSequence = false) =>
    checkRequest(
      { prompt: new Array(length).fill(1), sampling: maxLen === undefined ? {} : { maxLen }, truncateSequence },
      small,
    );

  it('refuses what can never fit, and says what it needs', () => {
    expect(() => ask(10, 7)).toThrow(
      /the 16 tokens .* got 10 and 7; they need 170 MB .*\{ mb: 170 \}, or lower maxLen/,
    );
    expect(() => ask(17)).toThrow(/^prompt: .* need 170 MB of cache, .* shorten the prompt/);
    // An answer ends with the model's own length.
    expect(() => ask(10, 1000)).toThrow('need 400 MB');
    expect(() => ask(41, 1)).toThrow('expected at most 16 tokens, got 41');
  });

  it('takes what fits, what has no length, and what may be cut', () => {
    expect(ask(10, 6)).toHaveLength(10);
    expect(ask(16)).toHaveLength(16);
    expect(ask(30, 4, true)).toHaveLength(12);
    expect(ask(10, 30, true)).toHaveLength(10);
    expect(checkRequest({ prompt: [1], sampling: { maxLen: 1000 } }, limits)).toHaveLength(1);
  });
});

describe('truncation', () => {
  it('drops the beginning and leaves room for the answer', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(99), { minLength: 1, maxLength: 40 }),
        fc.option(fc.integer({ min: 1, max: 30 }), { nil: undefined }),
        (prompt, maxLen) => {
          const kept = prompt.length <= 16 ? prompt.length : 16 - Math.min(maxLen ?? 1, 16);
          if (kept === 0) {
            expect(() => checkPrompt(prompt, limits, { truncate: true, maxLen })).toThrow('leaves no room');
          } else {
            expect([...checkPrompt(prompt, limits, { truncate: true, maxLen })]).toEqual(prompt.slice(-kept));
          }
        },
      ),
    );
  });
});
