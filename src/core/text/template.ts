/** Chat templates: a conversation becomes the text that a model was trained on. */
import { ConfigError, RequestValidationError } from '../errors.ts';
import type { ChatTemplateSource } from '../io/assets.ts';
import type { TemplateTree } from './jinja/ast.ts';
import { toValue } from './jinja/convert.ts';
import type { Rendering } from './jinja/interpreter.ts';
import { render } from './jinja/interpreter.ts';
import { parseTemplate } from './jinja/parser.ts';
import type { Value } from './jinja/values.ts';
import { type FinalMessage, markFinal, templateMessages } from './templateMessages.ts';

/** Special tokens as text. Templates know `bosToken` as `bos_token`, and so on. */
export interface TemplateTokens {
  readonly bosToken?: string | undefined;
  readonly eosToken?: string | undefined;
  readonly unkToken?: string | undefined;
  readonly padToken?: string | undefined;
  readonly sepToken?: string | undefined;
  readonly clsToken?: string | undefined;
  readonly maskToken?: string | undefined;
}

/** What a rendering is given besides messages. Names not listed here are variables of the template, as they are. */
export interface TemplateOptions {
  readonly tools?: readonly unknown[] | null | undefined;
  readonly documents?: readonly unknown[] | null | undefined;
  /** Ends the text where the model's turn begins. Off by default. */
  readonly addGenerationPrompt?: boolean | undefined;
  readonly enableThinking?: boolean | undefined;
  readonly reasoningEffort?: string | undefined;
  /** Ends the text within the last message, for the model to go on; a name says in which field. */
  readonly continueFinalMessage?: boolean | string | undefined;
  /** What `strftime_now` takes for now. */
  readonly now?: Date | undefined;
  readonly [variable: string]: unknown;
}

/** A chat template, in the language of jinja2 as transformers sets it up. Parsed when first used. */
export class ChatTemplate {
  readonly #sources: ReadonlyMap<string, string>;
  readonly #tokens: ReadonlyMap<string, Value>;
  readonly #bos: string | undefined;
  readonly #trees = new Map<string, TemplateTree>();

  /** `source`: one template, or several by name, of which `tool_use` serves requests with tools. */
  constructor(source: ChatTemplateSource, tokens: TemplateTokens = {}) {
    this.#sources = new Map(
      typeof source === 'string' ? [['default', source]] : source.map((s) => [s.name, s.template]),
    );
    const given = Object.entries(tokens as Record<string, unknown>).filter(([, token]) => token !== undefined);
    this.#tokens = new Map(given.map(([name, token]) => [snakeCase(name), toValue(token)]));
    this.#bos = tokens.bosToken;
  }

  /**
   * The text of a conversation. Messages are those of the SDK or those that templates read (`tool_calls` and so on);
   * arguments of the SDK's tool calls become objects. Throws `RequestValidationError` where the template refuses the
   * conversation, `FormatError` where it is no template.
   */
  render(messages: readonly unknown[], options: TemplateOptions = {}): string {
    return this.renderSpans(messages, options).text;
  }

  /** The same, with the parts of the text that stand in `{% generation %}` blocks: what the model itself says. */
  renderSpans(messages: readonly unknown[], options: TemplateOptions = {}): Rendering {
    const { tools, documents, addGenerationPrompt, enableThinking, reasoningEffort, now, ...rest } = options;
    const { continueFinalMessage, continue_final_message: goOn = continueFinalMessage, ...extra } = rest;
    let final: FinalMessage | undefined;
    const variables = (): ReadonlyMap<string, Value> => {
      const chat = templateMessages(messages);
      if (goOn) final = markFinal(chat, typeof goOn === 'string' ? goOn : 'content');
      const all = new Map<string, Value>(this.#tokens);
      all.set(
        'messages',
        chat.map((message) => toValue(message)),
      );
      all.set('tools', toValue(tools));
      all.set('documents', toValue(documents));
      all.set('add_generation_prompt', addGenerationPrompt ?? false);
      if (enableThinking !== undefined) all.set('enable_thinking', enableThinking);
      if (reasoningEffort !== undefined) {
        all.set('reasoning_effort', reasoningEffort);
        all.set('reasoning_strength', reasoningEffort);
      }
      for (const [name, value] of Object.entries(extra)) if (value !== undefined) all.set(name, toValue(value));
      return all;
    };
    const time = now ?? new Date();
    const rendering = render(this.#tree(tools !== undefined && tools !== null), variables, { now: () => time });
    return final ? { ...rendering, text: final.cut(rendering.text) } : rendering;
  }

  /** Whether a rendered text begins with the begin token, which a tokenizer must not add once more then. */
  startsWithBos(text: string): boolean {
    return this.#bos !== undefined && this.#bos !== '' && text.startsWith(this.#bos);
  }

  #tree(withTools: boolean): TemplateTree {
    const name = this.#choose(withTools);
    let tree = this.#trees.get(name);
    if (!tree) {
      tree = parseTemplate(this.#sources.get(name) ?? '');
      this.#trees.set(name, tree);
    }
    return tree;
  }

  #choose(withTools: boolean): string {
    if (withTools && this.#sources.has('tool_use')) return 'tool_use';
    const names = [...this.#sources.keys()];
    const name = this.#sources.has('default') ? 'default' : names.length === 1 ? names[0] : undefined;
    if (name === undefined) {
      throw new ConfigError(`chat template: expected one named "default", got ${names.join(', ') || 'none'}`);
    }
    if (withTools && names.length > 1 && !this.#sources.get(name)?.includes('tools')) {
      throw new RequestValidationError(
        'template_error',
        `chat template: expected one named "tool_use" for a request with tools, got ${names.join(', ')}; leave the tools out`,
      );
    }
    return name;
  }
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
}
