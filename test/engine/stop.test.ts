import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { OutputText, StopMatcher } from '../../src/core/engine/stop.ts';
import type { TokenDecoder } from '../../src/core/engine/types.ts';

/** Cuts where the first stop string to be complete begins, seen letter by letter. */
function naiveCut(text: string, stops: readonly string[]): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const ending = stops.filter((s) => text.slice(0, end).endsWith(s));
    const longest = Math.max(0, ...ending.map((s) => s.length));
    if (longest > 0) return { text: text.slice(0, end - longest), stopped: true };
  }
  return { text, stopped: false };
}

/** Tokens are pieces of UTF-8; characters come out when complete. */
function byteDecoder(pieces: readonly Uint8Array[]): TokenDecoder {
  const decoder = new TextDecoder('utf-8');
  return {
    push: (id) => decoder.decode(pieces[id]!, { stream: true }) || undefined,
    flush: () => decoder.decode() || undefined,
  };
}

function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length]!;
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return pieces;
}

const letter = fc.constantFrom(...'aaaaaabbbbbb', ' ', '\n', 'é', '日', '😀', '😁');
const letters = (min: number, max: number) =>
  fc.array(letter, { minLength: min, maxLength: max }).map((l) => l.join(''));

describe('output text', () => {
  it('shows what a search over the whole text shows, wherever tokens are cut', () => {
    fc.assert(
      fc.property(
        letters(0, 60),
        fc.array(letters(1, 5), { maxLength: 4 }),
        fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 5 }),
        fc.boolean(),
        (text, stops, sizes, trimStart) => {
          const pieces = cut(new TextEncoder().encode(text), sizes);
          const output = new OutputText({ decoder: byteDecoder(pieces), stops, trimStart });
          const expected = naiveCut(text, stops);
          const wanted = trimStart ? expected.text.trimStart() : expected.text;
          let shown = '';
          for (let id = 0; id < pieces.length && !output.stopped; id++) {
            shown += output.push(id);
            // Never more than the final text: nothing of a stop string leaks.
            expect(wanted.startsWith(shown)).toBe(true);
          }
          shown += output.finish();
          expect(shown).toBe(wanted);
          expect(output.stopped).toBe(expected.stopped);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('holds back no more than needed', () => {
    const matcher = new StopMatcher(['</s>']);
    expect(matcher.push('a<b')).toBe('a<b');
    expect(matcher.push('x</')).toBe('x');
    expect(matcher.push('p>')).toBe('</p>');
    expect(matcher.push('<<')).toBe('<');
    expect(matcher.flush()).toBe('<');
  });

  it('notices a stop string with the token that completes it', () => {
    const matcher = new StopMatcher(['END']);
    expect(matcher.push('the E')).toBe('the ');
    expect(matcher.push('ND of it')).toBe('');
    expect(matcher.stopped).toBe(true);
    expect(matcher.push('more')).toBe('');
    expect(matcher.flush()).toBe('');
  });

  it('finds a stop string in what the decoder releases at the end', () => {
    const bytes = new Uint8Array([0x61, 0xf0, 0x9f]);
    const output = new OutputText({ decoder: byteDecoder([bytes]), stops: ['\ufffd'], trimStart: true });
    expect(output.push(0)).toBe('a');
    expect(output.finish()).toBe('');
    expect(output.stopped).toBe(true);
  });

  it('drops leading white space over several deltas, and stop strings are matched before that', () => {
    const pieces = [' ', '\n', ' a', ' b'].map((s) => new TextEncoder().encode(s));
    const output = new OutputText({ decoder: byteDecoder(pieces), stops: [], trimStart: true });
    expect([0, 1, 2, 3].map((id) => output.push(id))).toEqual(['', '', 'a', ' b']);
    const stopping = new OutputText({ decoder: byteDecoder(pieces), stops: [' \n '], trimStart: true });
    for (let id = 0; id < 3; id++) stopping.push(id);
    expect(stopping.stopped).toBe(true);
    expect(stopping.finish()).toBe('');
  });

  it('is empty without a decoder', () => {
    const output = new OutputText({ decoder: undefined, stops: ['a'], trimStart: true });
    expect(output.push(1) + output.finish()).toBe('');
    expect(output.stopped).toBe(false);
  });
});
