/** LoRA adapters as options and calls name them. */
import { ConfigError } from '../errors.ts';
import type { LoraLimits, LoraLoadPolicy } from '../lora/runtime.ts';

/** A folder, a hub id, or the files of an adapter by name. */
export type AdapterInput = string | Readonly<Record<string, Blob | Uint8Array>>;

export interface LoadAdapterOptions {
  /** `create` when absent. */
  readonly policy?: LoraLoadPolicy;
  /** Of a hub repository. */
  readonly revision?: string;
}

/** An adapter to load with the model. */
export interface LoraAdapterSpec {
  readonly alias: string;
  readonly source: AdapterInput;
  readonly revision?: string;
}

/** Limits of all adapters of a model: 16, rank 256 and 8 GiB where they say nothing. */
export type LoraRuntimeConfig = Partial<LoraLimits>;

const MAX_SPECS = 1024;

/** Throws `ConfigError` for a list of adapters that cannot be meant. */
export function checkAdapterSpecs(specs: unknown): void {
  if (specs === undefined) return;
  if (!Array.isArray(specs) || specs.length > MAX_SPECS) {
    throw new ConfigError('option loraAdapters: expected a list of { alias, source }');
  }
  const seen = new Set<string>();
  for (const [i, spec] of (specs as readonly (Partial<LoraAdapterSpec> | null)[]).entries()) {
    const alias = typeof spec?.alias === 'string' ? spec.alias.trim() : '';
    const { source, revision } = spec ?? {};
    const fits = typeof source === 'string' ? source !== '' : typeof source === 'object' && source !== null;
    if (alias === '' || !fits || (revision !== undefined && typeof revision !== 'string')) {
      throw new ConfigError(`option loraAdapters[${i}]: expected { alias, source, revision? }`);
    }
    if (seen.has(alias)) {
      throw new ConfigError(
        `option loraAdapters[${i}]: expected a name of its own, got ${JSON.stringify(alias)} again`,
      );
    }
    seen.add(alias);
  }
}
