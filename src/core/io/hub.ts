/**
 * Models of the Hugging Face hub, through the cache folder of its Python client: `models--org--name` with `blobs` (content
 * by hash), `snapshots/<commit>` (links into blobs) and `refs` (revision → commit). Without files, repositories are read
 * over HTTP.
 */
import { ConfigError, ModelLoadError, StorageError } from '../errors.ts';
import type { Platform } from '../platform.ts';
import type { ModelFolder } from './folder.ts';
import { listFiles } from './folder.ts';
import type { HttpOptions } from './http.ts';
import { ConnectionError, HttpStatusError } from './http.ts';
import { openHttp } from './httpSource.ts';
import type { HubFile } from './hubApi.ts';
import { isCommit, listRepo, refusal } from './hubApi.ts';
import { downloadBlob } from './hubDownload.ts';
import type { TokenSource } from './hubSettings.ts';
import { hubSettings, hubToken } from './hubSettings.ts';
import { isSafeRelativePath, joinPath } from './path.ts';
import type { OnProgress } from './progress.ts';

const DOWNLOADS_AT_ONCE = 4;
/** Progress is told at every file and at least this often. */
const PROGRESS_STEP_BYTES = 2 ** 20;
/** The bounds of the hub's own names. */
const ID = /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/;

export interface HubOptions {
  readonly platform: Platform;
  /** Branch, tag or commit. Default `main`. */
  readonly revision?: string | undefined;
  readonly tokenSource?: TokenSource | undefined;
  /** Instead of HF_HUB_CACHE. */
  readonly cacheDir?: string | undefined;
  /** Instead of HF_HUB_OFFLINE. */
  readonly offline?: boolean | undefined;
  /** Instead of HF_ENDPOINT. */
  readonly endpoint?: string | undefined;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly fetch?: typeof fetch | undefined;
  /** Tries of each request, and the first pause between two. */
  readonly attempts?: number | undefined;
  readonly retryDelayMs?: number | undefined;
}

/** Whether a text has the form of a hub id, `org/name`. */
export function isHubId(text: string): boolean {
  return ID.test(text) && !text.includes('--') && !text.includes('..') && !/\.(git|ipynb)$/.test(text);
}

/**
 * Opens a hub repository at a revision. Files are downloaded by `prepare` and `open`, into the cache, and only when they
 * are not there yet. Offline, or when the hub cannot be reached, the cached snapshot is used; what it lacks is named by
 * a `ModelLoadError`.
 */
export async function openHubRepo(id: string, options: HubOptions): Promise<ModelFolder> {
  const { platform, revision = 'main' } = options;
  if (!isHubId(id)) throw new ConfigError(`hub id: expected org/name, got ${JSON.stringify(id.slice(0, 200))}`);
  if (!isSafeRelativePath(revision)) {
    throw new ConfigError(`revision: expected a branch, tag or commit, got ${JSON.stringify(revision.slice(0, 200))}`);
  }
  const settings = hubSettings(platform, options);
  const root =
    settings.cacheDir === undefined ? undefined : joinPath(settings.cacheDir, `models--${id.replace('/', '--')}`);
  if (settings.offline) return openCached(id, revision, root, options, 'offline mode (HF_HUB_OFFLINE) is on');

  const token = await hubToken(platform, options.tokenSource);
  const http: HttpOptions = {
    ...options,
    headers: {
      // Browsers name themselves, and would ask the server first whether we may.
      ...(platform.runtime === 'browser' ? {} : { 'User-Agent': 'tramontane' }),
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
    },
  };
  let listing: Awaited<ReturnType<typeof listRepo>>;
  try {
    listing = await listRepo(id, revision, settings.endpoint, http);
  } catch (error) {
    if (!(error instanceof ConnectionError)) throw error;
    return openCached(id, revision, root, options, error.message);
  }
  const at: RepoAt = {
    id,
    revision,
    commit: listing.commit,
    urlOf: (path) =>
      `${settings.endpoint}/${id}/resolve/${listing.commit}/${path.split('/').map(encodeURIComponent).join('/')}`,
    files: new Map(listing.files.map((file) => [file.path, file])),
  };
  if (root === undefined) return remoteRepo(at, http);
  if (revision !== listing.commit) await writeRef(platform, joinPath(root, 'refs', revision), listing.commit);
  return downloadedRepo(at, root, http, options);
}

interface RepoAt {
  readonly id: string;
  readonly revision: string;
  readonly commit: string;
  readonly urlOf: (path: string) => string;
  readonly files: ReadonlyMap<string, HubFile>;
}

/** Every open reads over HTTP. */
function remoteRepo(repo: RepoAt, http: HttpOptions): ModelFolder {
  return {
    name: repo.id,
    location: repo.id,
    files: [...repo.files.keys()],
    async prepare() {},
    open: (name) => explained(repo, openHttp(repo.urlOf(fileOf(repo, name).path), { ...http, readAhead: true })),
  };
}

function downloadedRepo(repo: RepoAt, root: string, http: HttpOptions, options: HubOptions): ModelFolder {
  const { platform } = options;
  const folder = joinPath(root, 'snapshots', repo.commit);
  const prepare = (names: readonly string[]): Promise<void> =>
    explained(
      repo,
      fetchFiles(
        repo,
        root,
        folder,
        [...new Set(names)].map((name) => fileOf(repo, name)),
        http,
        options,
      ),
    );
  return {
    name: repo.id,
    location: folder,
    files: [...repo.files.keys()],
    prepare,
    async open(name) {
      await prepare([name]);
      return platform.openFile(joinPath(folder, name));
    },
  };
}

async function fetchFiles(
  repo: RepoAt,
  root: string,
  folder: string,
  files: readonly HubFile[],
  http: HttpOptions,
  options: HubOptions,
): Promise<void> {
  const { platform, onProgress, signal } = options;
  const missing: HubFile[] = [];
  for (const file of files) {
    if ((await platform.stat(joinPath(folder, file.path)))?.size !== file.size) missing.push(file);
  }
  // Files of equal content are one blob.
  const blobs = new Map(missing.map((file) => [file.etag, file]));
  const done = new Map<string, number>();
  const total = [...blobs.values()].reduce((sum, file) => sum + file.size, 0);
  await checkRoom(repo, root, platform, [...blobs.values()]);
  let told = 0;
  const tell = (file: HubFile, bytes: number): void => {
    done.set(file.etag, bytes);
    let sum = 0;
    for (const n of done.values()) sum += n;
    if (Math.abs(sum - told) < PROGRESS_STEP_BYTES && bytes < file.size) return;
    told = sum;
    onProgress?.({ stage: 'download', done: sum, total, unit: 'bytes', item: file.path });
  };
  const stop = new AbortController();
  const forward = (): void => stop.abort();
  signal?.addEventListener('abort', forward, { once: true });
  if (signal?.aborted) stop.abort();
  const queue = [...blobs.values()];
  const work = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const current = file;
      const path = joinPath(root, 'blobs', file.etag);
      if ((await platform.stat(path))?.size !== file.size) {
        await downloadBlob({
          platform,
          url: repo.urlOf(file.path),
          file,
          path,
          http: { ...http, signal: stop.signal },
          onBytes: (bytes) => tell(current, bytes),
        }).catch((error: unknown) => {
          throw error instanceof StorageError ? noRoom(repo, current, root, error) : error;
        });
      }
      tell(current, file.size);
    }
  };
  try {
    await allOrFirstError(Array.from({ length: DOWNLOADS_AT_ONCE }, work), () => {
      queue.length = 0;
      stop.abort();
    });
  } finally {
    signal?.removeEventListener('abort', forward);
  }
  for (const file of missing) await platform.link(joinPath(root, 'blobs', file.etag), joinPath(folder, file.path));
}

/** Throws `StorageError` when what is missing cannot find room, before any of it is fetched. */
async function checkRoom(repo: RepoAt, root: string, platform: Platform, files: readonly HubFile[]): Promise<void> {
  let needed = 0;
  for (const { etag, size } of files) {
    const path = joinPath(root, 'blobs', etag);
    const there = (await platform.stat(path)) ?? (await platform.stat(`${path}.incomplete`));
    needed += Math.max(0, size - (there?.size ?? 0));
  }
  const free = needed === 0 ? undefined : await platform.freeSpace(root);
  if (free === undefined || needed <= free) return;
  throw new StorageError(
    `${repo.id}: expected room for ${megabytes(needed)} MB in the cache, got ${megabytes(free)} MB; ` +
      `make room at ${root}${platform.runtime === 'browser' ? ' (or in the quota of this site), or load without a cache' : ''}`,
  );
}

function noRoom(repo: RepoAt, file: HubFile, root: string, cause: StorageError): StorageError {
  return new StorageError(
    `${repo.id}/${file.path}: expected room for ${megabytes(file.size)} MB at ${root}, but it is used up; make room, or load ` +
      'without a cache',
    { cause },
  );
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

/** Waits for all; at the first error stops the others, and rejects with that error once they have ended. */
async function allOrFirstError(work: readonly Promise<void>[], stop: () => void): Promise<void> {
  const failures: unknown[] = [];
  const watched = work.map((job) =>
    job.catch((error: unknown) => {
      failures.push(error);
      stop();
    }),
  );
  await Promise.all(watched);
  if (failures.length > 0) throw failures[0];
}

async function openCached(
  id: string,
  revision: string,
  root: string | undefined,
  { platform }: HubOptions,
  reason: string,
): Promise<ModelFolder> {
  if (root === undefined) throw new ModelLoadError(`${id}: expected a connection to the hub: ${reason}`);
  const ref = joinPath(root, 'refs', revision);
  let commit: string | undefined = isCommit(revision) ? revision : undefined;
  if (commit === undefined && (await platform.exists(ref))) commit = (await platform.readText(ref, 1024)).trim();
  const folder = commit !== undefined && isCommit(commit) ? joinPath(root, 'snapshots', commit) : undefined;
  if (folder === undefined || (await platform.stat(folder))?.kind !== 'directory') {
    throw new ModelLoadError(`${id} (revision ${revision}): not in the cache at ${root}, and ${reason}`);
  }
  const files = await listFiles(platform, folder);
  const known = new Set(files);
  const prepare = async (names: readonly string[]): Promise<void> => {
    const missing = names.filter((name) => !known.has(name));
    if (missing.length === 0) return;
    throw new ModelLoadError(`${id}: ${missing.join(', ')}: not in the cache at ${folder}, and ${reason}`);
  };
  return {
    name: id,
    location: folder,
    files,
    prepare,
    async open(name) {
      await prepare([name]);
      return platform.openFile(joinPath(folder, name));
    },
  };
}

async function writeRef(platform: Platform, path: string, commit: string): Promise<void> {
  if ((await platform.exists(path)) && (await platform.readText(path, 1024)) === commit) return;
  await platform.writeFile(path, commit);
}

function fileOf(repo: RepoAt, name: string): HubFile {
  const file = repo.files.get(name);
  if (file !== undefined) return file;
  throw new ModelLoadError(`${repo.id} (revision ${repo.revision}): has no file ${JSON.stringify(name)}`);
}

async function explained<T>(repo: RepoAt, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof HttpStatusError ? refusal(repo.id, repo.revision, error) : error;
  }
}
