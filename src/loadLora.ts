/** LoRA adapters of a model that is being loaded: their runtime, and where their files come from. */
import type { Backend } from './core/backend.ts';
import type { Engine } from './core/engine/engine.ts';
import { localFolder, type ModelFolder, memoryFolder } from './core/io/folder.ts';
import { openHubRepo } from './core/io/hub.ts';
import { expandHome } from './core/io/hubSettings.ts';
import { pathOfFileUrl } from './core/io/open.ts';
import { loraError } from './core/lora/error.ts';
import { AdapterRows } from './core/lora/rows.ts';
import { LoraRuntime } from './core/lora/runtime.ts';
import type { Platform } from './core/platform.ts';
import type { AdapterInput } from './core/sdk/adapters.ts';
import type { ModelAdapters } from './core/sdk/model.ts';
import type { LoadOptions } from './core/sdk/options.ts';
import type { Weight } from './core/weight.ts';
import { resolveOptions } from './findModel.ts';
import { dequantizeInto } from './quant/index.ts';

/** What the runner, the engine and the model each need of the adapters. */
export interface Adapters extends ModelAdapters {
  readonly rows: AdapterRows;
  readonly runtime: LoraRuntime;
}

/** `undefined` unless the options ask for adapters. */
export function makeAdapters(
  options: LoadOptions,
  platform: Platform,
  model: { readonly backend: Backend; readonly weights: Iterable<Weight>; readonly maxRows: number },
): Adapters | undefined {
  const { lora, loraAdapters, loraRuntimeConfig } = options;
  if (!lora && !loraAdapters?.length && loraRuntimeConfig === undefined) return undefined;
  const rows = new AdapterRows(model.backend, model.maxRows);
  const runtime = new LoraRuntime({
    backend: model.backend,
    weights: model.weights,
    rows,
    codec: { dequantizeInto },
    hasher: () => platform.hasher('sha256'),
    limits: loraRuntimeConfig,
  });
  return {
    rows,
    runtime,
    load: (alias, source, { policy, revision }) =>
      runtime.load(
        alias,
        {
          source: typeof source === 'string' ? source : alias,
          revision,
          open: () => adapterFolder(alias, source, revision, options, platform),
        },
        policy,
      ),
    unload: (alias, settings) => runtime.unload(alias, settings),
    list: () => runtime.list(),
    status: () => runtime.status(),
  };
}

/** Loads the adapters that the options name, in order. */
export async function loadAdapters(adapters: Adapters, engine: Engine, options: LoadOptions): Promise<void> {
  adapters.runtime.connect((task) => engine.betweenSteps(task));
  for (const { alias, source, revision } of options.loraAdapters ?? []) {
    options.signal?.throwIfAborted();
    await adapters.load(alias, source, revision === undefined ? {} : { revision });
  }
}

/** The files of an adapter: a folder, a hub repository, or files in memory. */
export async function adapterFolder(
  alias: string,
  input: AdapterInput,
  revision: string | undefined,
  options: LoadOptions,
  platform: Platform,
): Promise<ModelFolder> {
  if (typeof input !== 'string') return memoryFolder(alias, input);
  if (platform.hasFiles) {
    const path = input.startsWith('file:') ? pathOfFileUrl(input) : expandHome(platform, input);
    const info = await platform.stat(path);
    if (info?.kind === 'directory') return localFolder(platform, path);
    if (info !== undefined || !/^[\w.-]+\/[\w.-]+$/.test(input)) {
      throw loraError('io', `adapter ${JSON.stringify(input)}: expected a folder or a hub id (org/name)`, { alias });
    }
  }
  const { onProgress: _, ...hub } = resolveOptions(options, platform);
  return openHubRepo(input, revision === undefined ? hub : { ...hub, revision });
}
