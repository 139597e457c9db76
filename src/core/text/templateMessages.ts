/** Messages in the form that templates read. */
import { RequestValidationError } from '../errors.ts';
import { strip } from './jinja/characters.ts';
import { readJson } from './jinja/json.ts';
import { Dict } from './jinja/values.ts';

type Message = Map<string, unknown>;

/** Names of one thing; a message that has one gets those that templates look for. */
const REASONING = ['reasoning_content', 'thinking', 'reasoning'];
/** Marks the place in the last message where the text is to end. Its space tells whether the template trims. */
const FINAL_MARK = 'CONTINUE_FINAL_MESSAGE_TAG ';

/** Copies of the messages, under the names of Python's templates. */
export function templateMessages(messages: readonly unknown[]): Message[] {
  return messages.map((message, i) => {
    if (typeof message !== 'object' || message === null || Array.isArray(message)) {
      throw new RequestValidationError('invalid_request', `messages[${i}]: expected an object, got ${typeof message}`);
    }
    return withReasoning(renamed(message));
  });
}

function renamed(message: object): Message {
  const copy: Message = new Map();
  for (const [key, value] of Object.entries(message)) {
    if (value === undefined) continue;
    if (key === 'toolCalls') {
      if (Array.isArray(value) && value.length > 0) copy.set('tool_calls', value.map(toolCall));
    } else {
      copy.set(key === 'toolCallId' ? 'tool_call_id' : key === 'reasoningContent' ? 'reasoning_content' : key, value);
    }
  }
  return copy;
}

/** A tool call of the SDK; its arguments, which are JSON text, as an object. */
function toolCall(call: unknown): unknown {
  const given = call as { id?: unknown; function?: { name?: unknown; arguments?: unknown } } | null;
  const json = given?.function?.arguments;
  const parsed = typeof json === 'string' ? readJson(json) : undefined;
  return new Map<string, unknown>([
    ['id', given?.id],
    ['type', 'function'],
    [
      'function',
      new Map([
        ['name', given?.function?.name],
        ['arguments', parsed instanceof Dict ? parsed : json],
      ]),
    ],
  ]);
}

function withReasoning(message: Message): Message {
  const name = REASONING.find((key) => message.get(key) !== undefined && message.get(key) !== null);
  if (name === undefined) return message;
  const reasoning = message.get(name);
  return new Map([['thinking', reasoning], ...message, ['reasoning_content', reasoning]]);
}

/** A text that ends within the last message. */
export interface FinalMessage {
  /** The part of a rendered text up to the end of that message. */
  cut(text: string): string;
}

/** Marks the end of the last message, in place. */
export function markFinal(chat: readonly Message[], field: string): FinalMessage {
  const last = chat.at(-1);
  const value = last?.get(field);
  const parts = Array.isArray(value) ? (value as unknown[]) : undefined;
  const at = parts?.findLastIndex((part) => typeof textOf(part) === 'string') ?? -1;
  const text = parts ? textOf(parts[at]) : value;
  if (!last || typeof text !== 'string') {
    throw new RequestValidationError(
      'invalid_request',
      `continueFinalMessage: expected a last message with a text as "${field}", got ${last ? 'none' : 'no message'}`,
    );
  }
  const marked = text + FINAL_MARK;
  if (parts) {
    last.set(field, parts.with(at, { ...(parts[at] as object), text: marked }));
  } else {
    const names = REASONING.includes(field) ? REASONING.filter((name) => last.get(name) === text) : [field];
    for (const name of names) last.set(name, marked);
  }
  return { cut: (rendered) => cutAt(rendered, strip(text, 'both')) };
}

function textOf(part: unknown): unknown {
  return (part as { text?: unknown } | null | undefined)?.text;
}

function cutAt(rendered: string, text: string): string {
  const end = rendered.lastIndexOf(FINAL_MARK.trim());
  if (end < 0 || !rendered.includes(text)) {
    throw new RequestValidationError(
      'template_error',
      'continueFinalMessage: expected a template that shows the last message as it is; leave the option out',
    );
  }
  const head = rendered.slice(0, end);
  return rendered.startsWith(FINAL_MARK, end) ? head : strip(head, 'right');
}
