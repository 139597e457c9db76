/** The two reasoning controls of a request and what they mean together. */
import { RequestValidationError } from '../errors.ts';

export type ReasoningEffort = 'off' | 'low' | 'medium' | 'high' | 'xhigh';

const EFFORTS: readonly ReasoningEffort[] = ['off', 'low', 'medium', 'high', 'xhigh'];
const ALIASES: ReadonlyMap<string, ReasoningEffort> = new Map([
  ['none', 'off'],
  ['max', 'xhigh'],
]);

/** Reads an effort from text: case and surrounding space do not matter, `none` is `off`, `max` is `xhigh`. */
export function parseReasoningEffort(text: string): ReasoningEffort {
  const word = text.trim().toLowerCase();
  const effort = ALIASES.get(word) ?? EFFORTS.find((e) => e === word);
  if (effort === undefined) {
    throw new RequestValidationError(
      'invalid_request',
      `reasoningEffort: expected ${EFFORTS.join(' | ')}, got ${JSON.stringify(text)}`,
    );
  }
  return effort;
}

export interface ReasoningControls {
  readonly enableThinking: boolean;
  readonly reasoningEffort: ReasoningEffort | undefined;
}

/** Thinking is on unless one control turns it off; controls that contradict each other are refused. */
export function resolveReasoning(
  enableThinking: boolean | undefined,
  effort: ReasoningEffort | undefined,
): ReasoningControls {
  if (effort === undefined) return { enableThinking: enableThinking ?? true, reasoningEffort: undefined };
  const wanted = effort !== 'off';
  if (enableThinking !== undefined && enableThinking !== wanted) {
    throw new RequestValidationError(
      'effort_conflict',
      `reasoningEffort: expected ${enableThinking ? 'low, medium, high or xhigh' : 'off'} with enableThinking ${enableThinking}, ` +
        `got ${effort}; set only one of the two`,
    );
  }
  return { enableThinking: wanted, reasoningEffort: effort };
}
