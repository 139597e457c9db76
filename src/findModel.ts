/** Where a model's files are: by name, path, hub id, URL, or already at hand. */
import { ModelLoadError } from './core/errors.ts';
import type { ModelFolder } from './core/io/folder.ts';
import type { TokenSource } from './core/io/hubSettings.ts';
import { openSource, pathOfFileUrl } from './core/io/open.ts';
import { baseName } from './core/io/path.ts';
import type { Progress } from './core/io/progress.ts';
import type { ModelFiles, ResolveOptions } from './core/io/resolve.ts';
import { resolveModel } from './core/io/resolve.ts';
import type { Platform } from './core/platform.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import { EMBEDDED_MODEL, isEmbeddedName } from './embedded.ts';
import { isqLabels } from './quant/isq/types.ts';

/** The options of file resolution within those of loading. */
export function resolveOptions(options: LoadOptions, platform: Platform): ResolveOptions {
  const report = options.onProgress;
  return {
    platform,
    files: options.files,
    uqff: uqffChoices(options.fromUqff),
    revision: options.hfRevision,
    tokenSource: options.tokenSource as TokenSource | undefined,
    cacheDir: options.hfCachePath,
    endpoint: options.hfEndpoint,
    offline: options.offline,
    signal: options.signal,
    onProgress:
      report &&
      ((p: Progress) =>
        report({
          stage: 'download',
          done: p.done,
          total: p.total,
          unit: 'bytes',
          ...(p.item ? { item: p.item } : {}),
        })),
  };
}

function uqffChoices(names: LoadOptions['fromUqff']): ResolveOptions['uqff'] {
  if (names === undefined) return undefined;
  return (typeof names === 'string' ? [names] : names).map((name) => ({ name, stems: isqLabels(name) }));
}

/** Opens the files of a model; only headers of weights are read. */
export async function findModel(spec: ModelSpec, options: LoadOptions, platform: Platform): Promise<ModelFiles> {
  const resolve = resolveOptions(options, platform);
  if (typeof spec === 'string' && isEmbeddedName(spec)) return embeddedModel(resolve);
  if (typeof spec === 'string') return resolveModel(spec, resolve);
  if (spec instanceof URL)
    return resolveModel(spec.protocol === 'file:' ? pathOfFileUrl(spec.href) : spec.href, resolve);
  const source = await openSource(spec);
  const file = source.name.endsWith('.gguf') ? baseName(source.name) : `${source.name}.gguf`;
  const folder: ModelFolder = {
    name: file.slice(0, -'.gguf'.length),
    location: source.name,
    files: [file],
    async prepare() {},
    open: async () => source,
  };
  return resolveModel(folder, { ...resolve, files: [file] });
}

/** The embedded model: out of the repository this code belongs to, else from the hub, once. */
async function embeddedModel(resolve: ResolveOptions): Promise<ModelFiles> {
  const { platform } = resolve;
  if (platform.hasFiles) {
    const path = checkoutPath();
    if (path !== undefined && (await platform.exists(path)))
      return resolveModel(path, { ...resolve, files: undefined });
  }
  const { repo, revision, file } = EMBEDDED_MODEL.hub;
  const hub = { ...resolve, revision, files: [file] };
  try {
    // A pinned commit never changes: what is in the cache needs no question to the hub.
    return await resolveModel(repo, { ...hub, offline: true });
  } catch (error) {
    if (!(error instanceof ModelLoadError) || resolve.offline === true) throw error;
    return resolveModel(repo, hub);
  }
}

/** The model's place in a checkout, seen from the built and the unbuilt code alike. */
function checkoutPath(): string | undefined {
  // Written out: bundles for CommonJS put their own address in its place.
  const url: unknown = import.meta.url;
  if (typeof url !== 'string' || !url.startsWith('file:')) return undefined;
  const up = '..';
  return pathOfFileUrl(new URL(`${up}/models/${EMBEDDED_MODEL.file}`, url).href);
}
