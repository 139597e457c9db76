/** Tokenizer and chat template of a model, from wherever options and files say. */
import { FormatError, ModelLoadError } from './core/errors.ts';
import type { ChatTemplateSource, ModelAssets } from './core/io/assets.ts';
import { parseJson } from './core/io/json.ts';
import type { ModelFiles } from './core/io/resolve.ts';
import { resolveAssets } from './core/io/resolve.ts';
import type { Platform } from './core/platform.ts';
import type { LoadOptions } from './core/sdk/options.ts';
import type { TextTemplate } from './core/sdk/text.ts';
import { ModelText } from './core/sdk/text.ts';
import { textTokenizer } from './core/sdk/tokenizer.ts';
import { Tokenizer } from './core/text/tokenizer.ts';
import { resolveOptions } from './findModel.ts';

/** Templates are a few kilobytes. */
const MAX_TEMPLATE_BYTES = 4 * 2 ** 20;

/** Special tokens as templates name them. */
interface TokenNames {
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  readonly unkToken: string | undefined;
  readonly padToken: string | undefined;
}

/** `undefined` where the model has no tokenizer: token methods work all the same. */
export async function loadText(
  files: ModelFiles,
  options: LoadOptions,
  platform: Platform,
): Promise<ModelText | undefined> {
  const assets =
    options.tokModelId === undefined
      ? files
      : await resolveAssets(options.tokModelId, { ...resolveOptions(options, platform), files: undefined });
  const tokenizer = await findTokenizer(files, assets, options, platform);
  if (!tokenizer) return undefined;
  const names = await tokenNames(assets, tokenizer);
  const source = await findTemplate(files, assets, options, platform);
  return new ModelText({
    tokenizer: textTokenizer(tokenizer),
    template: source === undefined ? undefined : await lazyTemplate(source, names),
    bosToken: names.bosToken,
    eosIds: endIds(files, tokenizer, names.eosToken),
  });
}

async function findTokenizer(
  files: ModelFiles,
  assets: ModelAssets,
  options: LoadOptions,
  platform: Platform,
): Promise<Tokenizer | undefined> {
  if (options.tokenizerJson !== undefined) return Tokenizer.fromJson(options.tokenizerJson, { platform });
  const json = await assets.tokenizerJson();
  if (json !== undefined) {
    if (typeof json !== 'object' || json === null) {
      throw new FormatError(`${assets.location}/tokenizer.json: expected an object, got ${typeof json}`);
    }
    return Tokenizer.fromJson(json as Readonly<Record<string, unknown>>);
  }
  if (assets !== files) throw new ModelLoadError(`${assets.location}: expected a tokenizer.json, found none`);
  if (files.kind !== 'gguf' || !files.checkpoint.metadata.has('tokenizer.ggml.model')) return undefined;
  return Tokenizer.fromGguf(files.checkpoint);
}

/** The template to use: an explicit file, then the option, then the model's own. */
async function findTemplate(
  files: ModelFiles,
  assets: ModelAssets,
  options: LoadOptions,
  platform: Platform,
): Promise<ChatTemplateSource | undefined> {
  const { jinjaExplicit, chatTemplate } = options;
  if (jinjaExplicit !== undefined) return platform.readText(jinjaExplicit, MAX_TEMPLATE_BYTES);
  if (chatTemplate !== undefined) {
    if (!/\.(jinja2?|json)$/.test(chatTemplate) || chatTemplate.includes('\n')) return chatTemplate;
    const text = await platform.readText(chatTemplate, MAX_TEMPLATE_BYTES);
    return chatTemplate.endsWith('.json') ? templateOfJson(text, chatTemplate) : text;
  }
  return (await assets.chatTemplate()) ?? (assets === files ? undefined : await files.chatTemplate());
}

function templateOfJson(text: string, name: string): string {
  const holder = parseJson(text, { name }) as { chat_template?: unknown } | null;
  if (typeof holder?.chat_template !== 'string') throw new FormatError(`${name}: chat_template: expected a text`);
  return holder.chat_template;
}

/** Compiled when it is first rendered: completions need none. */
async function lazyTemplate(source: ChatTemplateSource, names: TokenNames): Promise<TextTemplate> {
  const { ChatTemplate } = await import('./core/text/template.ts');
  let template: InstanceType<typeof ChatTemplate> | undefined;
  return {
    source: typeof source === 'string' ? source : source.map((s) => s.template).join('\n'),
    render: (messages, options) => {
      template ??= new ChatTemplate(source, names);
      return template.render(messages, options);
    },
  };
}

async function tokenNames(assets: ModelAssets, tokenizer: Tokenizer): Promise<TokenNames> {
  const config = ((await assets.tokenizerConfig()) ?? {}) as Record<string, unknown>;
  const map = ((await assets.readJson('special_tokens_map.json')) ?? {}) as Record<string, unknown>;
  const name = (key: string, id: number | undefined): string | undefined =>
    contentOf(config[key]) ?? contentOf(map[key]) ?? (id === undefined ? undefined : tokenizer.idToToken(id));
  return {
    bosToken: name('bos_token', tokenizer.bosId),
    eosToken: name('eos_token', tokenizer.eosId),
    unkToken: name('unk_token', tokenizer.unkId),
    padToken: name('pad_token', tokenizer.padId),
  };
}

/** A token is written as its text, or as an object that has it. */
function contentOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

/** Tokens that end a text, a turn or a message; GGUF files name the three apart. */
function endIds(files: ModelFiles, tokenizer: Tokenizer, eosToken: string | undefined): number[] {
  const named = eosToken === undefined ? undefined : tokenizer.tokenToId(eosToken);
  const ggml = (key: string) =>
    files.kind === 'gguf' ? files.checkpoint.metadata.get(`tokenizer.ggml.${key}`) : undefined;
  const ids = [named, tokenizer.eosId, ggml('eot_token_id'), ggml('eom_token_id')];
  return [...new Set(ids)].filter((id) => typeof id === 'number' && id >= 0 && id < tokenizer.vocabSize) as number[];
}
