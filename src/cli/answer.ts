/** Prints a streamed answer, and what it took. */
import type { FinishReason, Response, Usage } from '../core/sdk/response.ts';
import { dim, type Screen } from './terminal.ts';

export interface Answer {
  readonly text: string;
  readonly finishReason: FinishReason | undefined;
}

/** Writes the text of a stream to `out` as it comes; figures go to `notes` where given. */
export async function answer(
  stream: AsyncIterable<Response>,
  out: { write(text: string): unknown },
  notes: Screen | undefined,
): Promise<Answer> {
  const start = performance.now();
  let first: number | undefined;
  let text = '';
  let finishReason: FinishReason | undefined;
  let usage: Usage | undefined;
  for await (const response of stream) {
    const [choice] = response.choices;
    if (!choice) continue;
    first ??= performance.now() - start;
    const piece = 'delta' in choice ? (choice.delta.content ?? '') : choice.text;
    if (piece !== '') out.write(piece);
    text += piece;
    finishReason = choice.finishReason ?? finishReason;
    usage = response.usage ?? usage;
  }
  if (!text.endsWith('\n')) out.write('\n');
  if (notes && usage) {
    notes.write(`${dim(figures(usage, first ?? 0, finishReason), notes, process.env['NO_COLOR'] !== undefined)}\n`);
  }
  return { text, finishReason };
}

/** `42 tokens, 88.1 tokens/s; prompt 31 tokens, first token after 0.21 s`. */
export function figures(usage: Usage, firstMs: number, finishReason: FinishReason | undefined): string {
  const why = finishReason === 'stop' || finishReason === undefined ? '' : ` (${finishReason})`;
  return (
    `${usage.completionTokens} tokens${why}, ${usage.avgComplTokPerSec.toFixed(1)} tokens/s; ` +
    `prompt ${usage.promptTokens} tokens, first token after ${(firstMs / 1000).toFixed(2)} s`
  );
}
