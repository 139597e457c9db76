/** Downloads into the blob store of the cache: resumed after a break, checked against the content's hash. */
import { FormatError, ModelLoadError } from '../errors.ts';
import type { Hasher, Platform } from '../platform.ts';
import type { HttpOptions } from './http.ts';
import { streamRange } from './http.ts';
import type { HubFile } from './hubApi.ts';

/** Pieces in which a resumed file is read again for its hash. */
const REREAD_BYTES = 2 ** 22;

export interface BlobDownload {
  readonly platform: Platform;
  readonly url: string;
  readonly file: HubFile;
  /** Where the finished blob goes. */
  readonly path: string;
  readonly http: HttpOptions;
  /** Called with the bytes that are there, as they grow; may fall back when a damaged part is dropped. */
  readonly onBytes: (done: number) => void;
}

/**
 * Downloads one blob to `path`. Until it is complete it lies at `path.incomplete`, and a later call goes on from there.
 * All writers put the same bytes at the same place, so several processes may download the same blob at once.
 * Throws `FormatError` when the content is not what its hash promises.
 */
export async function downloadBlob(download: BlobDownload): Promise<void> {
  const { platform, path, file } = download;
  const incomplete = `${path}.incomplete`;
  for (let clean = false; ; clean = true) {
    const { digest, resumed } = await fill(download, incomplete, clean);
    // Another process may have finished first.
    if ((await platform.stat(path))?.size === file.size) return;
    if (digest === file.etag && (await platform.stat(incomplete))?.size === file.size) break;
    await platform.remove(incomplete);
    // What an earlier run left may be to blame: once more, from the start.
    if (!resumed) {
      throw new FormatError(
        `${file.path}: expected content with hash ${file.etag}, got ${digest}; the download was damaged, try again`,
      );
    }
  }
  try {
    await platform.rename(incomplete, path);
  } catch (error) {
    if ((await platform.stat(path))?.size !== file.size) throw error;
  }
}

async function fill(
  { platform, url, file, http, onBytes }: BlobDownload,
  incomplete: string,
  clean: boolean,
): Promise<{ digest: string; resumed: boolean }> {
  const hasher = await contentHasher(platform, file);
  const writer = await platform.openWriter(incomplete);
  try {
    let at = writer.size;
    if (clean || at > file.size) {
      await writer.truncate(0);
      at = 0;
    }
    const resumed = at > 0;
    if (resumed) await hashFile(platform, incomplete, at, hasher);
    onBytes(at);
    await streamRange(
      url,
      at,
      file.size,
      async (bytes) => {
        await writer.write(at, bytes);
        hasher.update(bytes);
        at += bytes.length;
        onBytes(at);
      },
      http,
    );
    return { digest: hasher.digest(), resumed };
  } finally {
    await writer.close();
  }
}

async function hashFile(platform: Platform, path: string, size: number, hasher: Hasher): Promise<void> {
  const source = await platform.openFile(path);
  try {
    if (source.size < size) throw new ModelLoadError(`${path}: cut by another program; try again`);
    for (let at = 0; at < size; at += REREAD_BYTES) {
      hasher.update(await source.slice(at, Math.min(size, at + REREAD_BYTES)));
    }
  } finally {
    await source.close();
  }
}

/** Large files are named by their SHA-256, small ones by the SHA-1 that git gives a blob. */
async function contentHasher(platform: Platform, file: HubFile): Promise<Hasher> {
  if (file.etag.length === 64) return platform.hasher('sha256');
  const hasher = await platform.hasher('sha1');
  hasher.update(new TextEncoder().encode(`blob ${file.size}\0`));
  return hasher;
}
