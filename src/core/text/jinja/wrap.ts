/** Breaking lines of text, as Python's `textwrap` does. */
import { charCount, charSlice, strip } from './characters.ts';
import type { Budget } from './fault.ts';
import { Fault } from './fault.ts';

const BLANK = '[\\t-\\r ]';
const INK = '[^\\t-\\r ]';
const LETTER = '[\\p{L}\\p{Nl}_]';
const WORD = '[\\p{L}\\p{N}_]';
const WORD_END = '[\\p{L}\\p{N}_!"\'&.,?]';
/** Space, a dash between words, or a word, which may end behind a hyphen. */
const PIECES = new RegExp(
  `${BLANK}+|(?<=${WORD_END})-{2,}(?=${WORD})|` +
    `${INK}+?(?:-(?:(?<=${LETTER}{2}-)|(?<=${LETTER}-${LETTER}-))(?=${LETTER}-?${LETTER})|(?=${BLANK}|$)|(?<=${WORD_END})(?=-{2,}${WORD}))`,
  'gu',
);
const WORDS = new RegExp(`${BLANK}+|${INK}+`, 'g');

export interface WrapOptions {
  readonly width: number;
  readonly breakWords: boolean;
  readonly breakHyphens: boolean;
}

/** The lines of one paragraph. */
export function wrapText(text: string, options: WrapOptions, budget: Budget): string[] {
  const { width, breakWords, breakHyphens } = options;
  if (width <= 0) throw new Fault(`invalid width ${width} (must be > 0)`);
  budget.text(text.length * 4);
  const pieces = (text.match(breakHyphens ? PIECES : WORDS) ?? []).reverse();
  const lines: string[] = [];
  while (pieces.length > 0) {
    budget.step(8);
    const line: string[] = [];
    let used = 0;
    if (lines.length > 0 && isBlank(pieces.at(-1))) pieces.pop();
    while (pieces.length > 0) {
      const size = charCount(pieces.at(-1) as string);
      if (used + size > width) break;
      line.push(pieces.pop() as string);
      used += size;
    }
    const next = pieces.at(-1);
    if (next !== undefined && charCount(next) > width) {
      if (breakWords) {
        const end = breakPoint(next, width - used, breakHyphens);
        line.push(charSlice(next, 0, end));
        pieces[pieces.length - 1] = charSlice(next, end, charCount(next));
        budget.text(next.length);
      } else if (line.length === 0) {
        line.push(pieces.pop() as string);
      }
    }
    if (isBlank(line.at(-1))) line.pop();
    if (line.length > 0) lines.push(line.join(''));
  }
  return lines;
}

function isBlank(piece: string | undefined): boolean {
  return piece !== undefined && strip(piece, 'both') === '';
}

/** Where a word too long for a line is cut: behind its last hyphen that fits, unless only hyphens come before. */
function breakPoint(word: string, room: number, breakHyphens: boolean): number {
  if (!breakHyphens || charCount(word) <= room) return room;
  const hyphen = charSlice(word, 0, room).lastIndexOf('-');
  return hyphen > 0 && /[^-]/.test(word.slice(0, hyphen)) ? hyphen + 1 : room;
}
