/** Fixtures of this folder: gzipped JSON. */
import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

const FOLDER = new URL('../fixtures/text/', import.meta.url);

export function fixture<T>(name: string): T {
  return JSON.parse(gunzipSync(readFileSync(new URL(`${name}.json.gz`, FOLDER))).toString('utf8')) as T;
}

/** Names of the fixtures in a folder. */
export function fixtureNames(folder: string): string[] {
  return readdirSync(new URL(`${folder}/`, FOLDER))
    .sort()
    .map((file) => `${folder}/${file.replace('.json.gz', '')}`);
}

/** Expected values of one tokenizer.json, computed by the library such files are made for. */
export interface TokenizerFixture {
  readonly tokenizer: Record<string, unknown>;
  readonly cases: readonly {
    readonly s: string;
    readonly ids: readonly number[];
    readonly ids0: readonly number[];
    readonly dec?: string;
    readonly dec_skip?: string;
    readonly dec0?: string;
  }[];
  readonly stream: readonly { readonly ids: readonly number[]; readonly chunks: readonly (string | null)[] }[];
  readonly pairs: readonly {
    readonly a: string;
    readonly b: string;
    readonly ids: readonly number[];
    readonly type_ids: readonly number[];
  }[];
}

/** Expected values of one GGUF vocabulary. */
export interface GgufFixture {
  readonly metadata: Record<string, unknown>;
  readonly cases: readonly GgufCase[];
}

export interface GgufCase {
  readonly s: string;
  readonly ids: readonly number[];
  readonly ids0: readonly number[];
  readonly ids_noparse?: readonly number[];
  readonly dec0: string;
}
