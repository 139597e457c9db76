/** Downloads into the blob store of the cache: resumed after a break, checked against the content's hash. */
import { FormatError } from '../errors.ts';
import type { FileWriter, Hasher, Platform } from '../platform.ts';
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
    // Looked at in this order: another process that finishes moves the one to the other.
    const written = await platform.stat(incomplete);
    if ((await platform.stat(path))?.size === file.size) return platform.remove(incomplete);
    if (digest === file.etag && written?.size === file.size) break;
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
    if (resumed) await hashStart(writer, at, hasher);
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

async function hashStart(writer: FileWriter, size: number, hasher: Hasher): Promise<void> {
  const piece = new Uint8Array(Math.min(size, REREAD_BYTES));
  for (let at = 0; at < size; at += piece.length) {
    const part = piece.subarray(0, size - at);
    await writer.readInto(at, part);
    hasher.update(part);
  }
}

/** Large files are named by their SHA-256, small ones by the SHA-1 that git gives a blob. */
async function contentHasher(platform: Platform, file: HubFile): Promise<Hasher> {
  if (file.etag.length === 64) return platform.hasher('sha256');
  const hasher = await platform.hasher('sha1');
  hasher.update(new TextEncoder().encode(`blob ${file.size}\0`));
  return hasher;
}
