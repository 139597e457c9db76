/** Chat templates: a conversation becomes the text a model was trained on. */
import { Template } from '@huggingface/jinja';
import { messageOf, RequestValidationError } from '../errors.ts';
import type { ChatTemplateSource } from '../io/assets.ts';

/** Special tokens under the names templates know them by, without the ending: `bosToken` is `bos_token` there. */
export interface TemplateTokens {
  readonly bosToken?: string | undefined;
  readonly eosToken?: string | undefined;
  readonly unkToken?: string | undefined;
  readonly padToken?: string | undefined;
}

/** What a rendering may be given besides messages. Unknown names reach the template unchanged. */
export interface TemplateOptions {
  readonly tools?: readonly unknown[] | undefined;
  readonly addGenerationPrompt?: boolean | undefined;
  readonly enableThinking?: boolean | undefined;
  readonly [variable: string]: unknown;
}

/** A chat template. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #tokens: Record<string, string>;

  constructor(source: ChatTemplateSource, tokens: TemplateTokens = {}) {
    const text =
      typeof source === 'string' ? source : (source.find((s) => s.name === 'default') ?? source[0])?.template;
    this.#template = new Template(text ?? '');
    this.#tokens = {};
    for (const [key, value] of Object.entries(tokens)) {
      if (value !== undefined) this.#tokens[key.replace('Token', '_token')] = value;
    }
  }

  /** The text of a conversation. */
  render(messages: readonly unknown[], options: TemplateOptions = {}): string {
    const { tools, addGenerationPrompt, enableThinking, ...extra } = options;
    try {
      return this.#template.render({
        ...this.#tokens,
        messages,
        tools: tools ?? null,
        add_generation_prompt: addGenerationPrompt ?? false,
        ...(enableThinking === undefined ? {} : { enable_thinking: enableThinking }),
        ...extra,
      });
    } catch (error) {
      throw new RequestValidationError('template_error', messageOf(error), { cause: error });
    }
  }
}
