/** The files of an adapter as PEFT writes them: a configuration and one file of matrices. */
import { LoraAdapterError, messageOf } from '../errors.ts';
import type { ModelFolder } from '../io/folder.ts';
import { readSafetensors } from '../io/safetensors.ts';
import type { ByteSource } from '../io/source.ts';
import { decodeUtf8Strict } from '../io/text.ts';
import { sourceTensors } from '../io/weightSource.ts';
import type { Hasher } from '../platform.ts';
import type { SourceTensor } from '../weights.ts';
import { type LoraConfig, MAX_CONFIG_BYTES, parseLoraConfig } from './config.ts';
import { loraError } from './error.ts';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
/** Set in front of what is hashed, so that no other digest of the same bytes is a generation. */
const DOMAIN = 'tramontane lora adapter 1\n';
const HASH_CHUNK = 2 ** 22;

export type MakeHasher = () => Promise<Hasher>;

export interface AdapterFiles {
  readonly config: LoraConfig;
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  /** SHA-256 of the contents, in hexadecimal: equal adapters are one generation. */
  readonly generation: string;
  close(): Promise<void>;
}

/** Opens an adapter's folder and digests it. Throws `LoraAdapterError` with code `io`, `config`, `format` or `file_too_large`. */
export async function openAdapter(folder: ModelFolder, hasher: MakeHasher, maxBytes: number): Promise<AdapterFiles> {
  const top = folder.files.filter((f) => !f.includes('/'));
  const others = top.filter((f) => /^adapter_model[.-].*(safetensors|bin|json)$/.test(f) && f !== WEIGHTS);
  for (const name of [CONFIG, WEIGHTS]) {
    if (top.includes(name)) continue;
    const instead =
      name === WEIGHTS && others.length > 0 ? `${others.slice(0, 3).join(', ')}; save it as one file` : 'none';
    throw loraError(instead === 'none' ? 'io' : 'format', `${folder.location}: expected ${name}, got ${instead}`);
  }
  const shard = others.find((f) => f.endsWith('.safetensors') || f.endsWith('.json'));
  if (shard !== undefined) {
    throw loraError('format', `${folder.location}: expected one ${WEIGHTS}, got ${shard} as well; save it as one file`);
  }
  await guarded('io', folder.location, () => folder.prepare([CONFIG, WEIGHTS]));
  const config = await withFile(folder, CONFIG, MAX_CONFIG_BYTES, async (source) => {
    const bytes = await guarded('io', source.name, () => source.slice(0, source.size));
    return { text: await guarded('config', CONFIG, async () => decodeUtf8Strict(bytes, source.name)), bytes };
  });
  const parsed = parseLoraConfig(config.text, `${folder.name}/${CONFIG}`);
  const source = await guarded('io', folder.location, () => folder.open(WEIGHTS));
  try {
    checkSize(source, maxBytes);
    const configDigest = await digest(hasher, async (h) => h.update(config.bytes));
    const weightDigest = await guarded('io', source.name, () => digest(hasher, (h) => hashAll(h, source)));
    const all = new TextEncoder().encode(DOMAIN + configDigest + weightDigest);
    const generation = await digest(hasher, async (h) => h.update(all));
    const checkpoint = await guarded('format', source.name, () => readSafetensors(source));
    return { config: parsed, tensors: sourceTensors(checkpoint), generation, close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** Opens one file of a folder for as long as it is used. Throws `LoraAdapterError`, `file_too_large` beyond `maxBytes`. */
export async function withFile<T>(
  folder: ModelFolder,
  name: string,
  maxBytes: number,
  use: (source: ByteSource) => Promise<T>,
): Promise<T> {
  const source = await guarded('io', folder.location, () => folder.open(name));
  try {
    checkSize(source, maxBytes);
    return await use(source);
  } finally {
    await source.close();
  }
}

function checkSize(source: ByteSource, maxBytes: number): void {
  if (source.size <= maxBytes) return;
  throw loraError('file_too_large', `${source.name}: expected at most ${maxBytes} bytes, got ${source.size}`);
}

async function digest(hasher: MakeHasher, feed: (h: Hasher) => Promise<void>): Promise<string> {
  const h = await hasher();
  await feed(h);
  return h.digest();
}

async function hashAll(h: Hasher, source: ByteSource): Promise<void> {
  for (let at = 0; at < source.size; at += HASH_CHUNK) {
    h.update(await source.slice(at, Math.min(source.size, at + HASH_CHUNK)));
  }
}

/** What goes wrong inside is reported under one code, unless it has one. */
export async function guarded<T>(
  code: 'io' | 'config' | 'format' | 'load',
  what: string,
  run: () => Promise<T>,
): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (error instanceof LoraAdapterError) throw error;
    throw Object.assign(loraError(code, `${what}: ${messageOf(error)}`), { cause: error });
  }
}
