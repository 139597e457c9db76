import type { Vocabulary } from './vocabulary.ts';

const MARK = '▁';
/** Shorter words are not worth the cut. */
const LONG_WORD = 48;

/**
 * Cuts long words of vocabularies that mark spaces (`▁`) before the marks. Where no token has the same characters side
 * by side, no merge crosses the place, so the parts can be encoded by themselves, and remembered.
 */
export class MarkSplit {
  readonly #vocabulary: Vocabulary;
  /** Code units that stand before a mark within a token; `undefined` until needed. */
  #joiners: ReadonlySet<number> | undefined;
  #hasMark = false;

  constructor(vocabulary: Vocabulary) {
    this.#vocabulary = vocabulary;
  }

  /** The parts of a word; `undefined` when it is to be encoded as a whole. */
  parts(word: string): readonly string[] | undefined {
    if (word.length < LONG_WORD || word.indexOf(MARK, 1) < 0) return undefined;
    if (this.#joiners === undefined) {
      this.#joiners = joinersOf(this.#vocabulary);
      // An unknown mark would join with unknown neighbours.
      this.#hasMark = this.#vocabulary.findText(MARK) >= 0;
    }
    if (!this.#hasMark) return undefined;
    const parts: string[] = [];
    let start = 0;
    for (let at = word.indexOf(MARK, 1); at > 0; at = word.indexOf(MARK, at + 1)) {
      if (this.#joiners.has(word.charCodeAt(at - 1))) continue;
      parts.push(word.slice(start, at));
      start = at;
    }
    if (start === 0) return undefined;
    parts.push(word.slice(start));
    return parts;
  }
}

function joinersOf(vocabulary: Vocabulary): ReadonlySet<number> {
  // Marks side by side are one run.
  const joiners = new Set([MARK.charCodeAt(0)]);
  for (let id = 0; id < vocabulary.size; id++) {
    const bytes = vocabulary.bytes(id);
    for (let i = bytes.length - 3; i > 0; i--) {
      if (bytes[i] !== 0xe2 || bytes[i + 1] !== 0x96 || bytes[i + 2] !== 0x81) continue;
      const text = vocabulary.text(id) ?? '';
      for (let at = text.indexOf(MARK, 1); at > 0; at = text.indexOf(MARK, at + 1))
        joiners.add(text.charCodeAt(at - 1));
      break;
    }
  }
  return joiners;
}
