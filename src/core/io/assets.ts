/** The small files of a model: configurations, tokenizer, chat template. */
import { FormatError } from '../errors.ts';
import type { ModelFolder } from './folder.ts';
import { parseJson } from './json.ts';
import { joinPath } from './path.ts';
import { readTextFrom } from './text.ts';

/** The largest tokenizer.json files have 35 MB; anything else stays below 1 MB. */
const MAX_TOKENIZER_BYTES = 2 ** 27;
const MAX_TEXT_BYTES = 2 ** 24;
/** What loading a model may ask for. */
export const ASSET_NAMES: readonly string[] = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'processor_config.json',
  'preprocessor_config.json',
  'video_preprocessor_config.json',
  'modules.json',
  'sentence_bert_config.json',
  'config_sentence_transformers.json',
];

/** A chat template as repositories hold it: one text, or several with names. */
export type ChatTemplateSource = string | readonly { readonly name: string; readonly template: string }[];

/** The small files of a model. Each is read when it is asked for; `undefined` says that there is none. */
export interface ModelAssets {
  /** Folder name, file name without ending, or hub id. */
  readonly name: string;
  /** Where they lie: path or URL. */
  readonly location: string;
  /** Files by path within the folder. */
  readonly files: readonly string[];
  readText(file: string): Promise<string | undefined>;
  /** Parsed; Python's `NaN` and `Infinity` are numbers. Errors name the place in the file. */
  readJson(file: string): Promise<unknown>;
  config(): Promise<unknown>;
  generationConfig(): Promise<unknown>;
  tokenizerJson(): Promise<unknown>;
  tokenizerConfig(): Promise<unknown>;
  /** chat_template.jinja, else the one in tokenizer_config.json, else chat_template.json, else GGUF metadata. */
  chatTemplate(): Promise<ChatTemplateSource | undefined>;
}

/** Access to the small files of a folder. */
export function modelAssets(folder: ModelFolder): ModelAssets {
  const readText = (file: string): Promise<string | undefined> =>
    readTextFile(folder, file, file === 'tokenizer.json' ? MAX_TOKENIZER_BYTES : MAX_TEXT_BYTES);
  const readJson = async (file: string): Promise<unknown> => {
    const text = await readText(file);
    return text === undefined ? undefined : parseJson(text, { name: joinPath(folder.location, file) });
  };
  return {
    name: folder.name,
    location: folder.location,
    files: folder.files,
    readText,
    readJson,
    config: () => readJson('config.json'),
    generationConfig: () => readJson('generation_config.json'),
    tokenizerJson: () => readJson('tokenizer.json'),
    tokenizerConfig: () => readJson('tokenizer_config.json'),
    async chatTemplate() {
      const jinja = await readText('chat_template.jinja');
      if (jinja !== undefined) return jinja;
      for (const file of ['tokenizer_config.json', 'chat_template.json']) {
        const holder = (await readJson(file)) as { chat_template?: unknown } | null | undefined;
        const template = holder?.chat_template;
        if (template !== undefined && template !== null) return templateOf(template, joinPath(folder.location, file));
      }
      return undefined;
    },
  };
}

/** Names of the small files that a folder has. Those of module folders (`1_Pooling/config.json`) are among them. */
export function assetNames(folder: Pick<ModelFolder, 'files'>): readonly string[] {
  const wanted = new Set(ASSET_NAMES);
  return folder.files.filter((file) => wanted.has(file) || /^\d+_\w+\/config\.json$/.test(file));
}

/** The text of a file of the folder; `undefined` when there is none. */
export async function readTextFile(folder: ModelFolder, file: string, maxBytes: number): Promise<string | undefined> {
  if (!folder.files.includes(file)) return undefined;
  const source = await folder.open(file);
  try {
    return await readTextFrom(source, maxBytes);
  } finally {
    await source.close();
  }
}

function templateOf(value: unknown, file: string): ChatTemplateSource {
  if (typeof value === 'string') return value;
  if (Array.isArray(value) && value.every(isNamed)) return value;
  throw new FormatError(`${file}: chat_template: expected a text or a list of { name, template }`);
}

function isNamed(value: unknown): value is { name: string; template: string } {
  const item = value as { name?: unknown; template?: unknown } | null;
  return typeof item?.name === 'string' && typeof item.template === 'string';
}
