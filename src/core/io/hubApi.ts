/** Questions to the hub: which commit a revision is, which files it has. */
import { FormatError, ModelLoadError, TramontaneError } from '../errors.ts';
import type { HttpOptions } from './http.ts';
import { checkStatus, HttpStatusError, retrying, send, shown } from './http.ts';
import { isSafeRelativePath } from './path.ts';

/** Answers are lists of files, 1000 a page. */
const MAX_ANSWER_BYTES = 16_000_000;
/** The largest model repositories have a few thousand files. */
const MAX_FILES = 100_000;
const COMMIT = /^[0-9a-f]{40}$/;
/** SHA-1 of a git object, or SHA-256 of a large file. */
const ETAG = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/;

export interface HubFile {
  /** Within the repository. */
  readonly path: string;
  readonly size: number;
  /** The name of the content: SHA-256 of a large file, git's SHA-1 of a small one. */
  readonly etag: string;
}

export interface HubListing {
  readonly commit: string;
  readonly files: readonly HubFile[];
}

export function isCommit(text: string): boolean {
  return COMMIT.test(text);
}

/** Asks the hub for a revision's commit and files. Throws `ModelLoadError` that says what was refused. */
export async function listRepo(id: string, revision: string, endpoint: string, http: HttpOptions): Promise<HubListing> {
  // Loaded on first use: most runs never talk to the hub.
  const { listFiles, modelInfo } = await import('@huggingface/hub');
  const common = { hubUrl: endpoint, fetch: answerFetch(http) };
  try {
    const { sha } = await modelInfo({ ...common, name: id, revision, additionalFields: ['sha'] });
    if (typeof sha !== 'string' || !isCommit(sha)) throw new FormatError(`${endpoint}: ${id}: expected a commit hash`);
    const files: HubFile[] = [];
    for await (const entry of listFiles({ ...common, repo: id, revision: sha, recursive: true })) {
      if (files.length >= MAX_FILES) throw new FormatError(`${id}: expected at most ${MAX_FILES} files`);
      const etag = entry.lfs?.oid ?? entry.oid ?? '';
      // A path that leaves the folder is left out: nothing of it may be written.
      if (entry.type !== 'file' || !isSafeRelativePath(entry.path)) continue;
      if (!ETAG.test(etag) || !Number.isSafeInteger(entry.size) || entry.size < 0) {
        throw new FormatError(`${endpoint}: ${id}/${entry.path}: expected size and hash of the file`);
      }
      files.push({ path: entry.path, size: entry.size, etag });
    }
    return { commit: sha, files };
  } catch (error) {
    if (error instanceof HttpStatusError) throw refusal(id, revision, error);
    if (error instanceof TramontaneError) throw error;
    throw new FormatError(`${endpoint}: ${id}: expected an answer of the hub's API, got something else`, {
      cause: error,
    });
  }
}

/** An HTTP error of the hub in words, with what to do about it. */
export function refusal(id: string, revision: string, error: HttpStatusError): ModelLoadError {
  const { status, code } = error;
  const what = `${id} (revision ${revision})`;
  if (code === 'GatedRepo' || status === 403) {
    return new ModelLoadError(
      `${what}: access is restricted; accept the conditions on the model's page and set HF_TOKEN`,
      { cause: error },
    );
  }
  if (status === 401) {
    return new ModelLoadError(`${what}: no such model, or a private one; check the name, or set HF_TOKEN`, {
      cause: error,
    });
  }
  if (code === 'RevisionNotFound') {
    return new ModelLoadError(`${what}: the hub knows the model, but not this revision`, { cause: error });
  }
  if (status === 404) return new ModelLoadError(`${what}: no such model on the hub`, { cause: error });
  return new ModelLoadError(`${what}: ${error.message}`, { cause: error });
}

/** `fetch` for the client library: with our headers, retries, timeouts and cancellation, answers bounded and read whole. */
function answerFetch(http: HttpOptions): typeof fetch {
  return async (input) => {
    const url = input instanceof Request ? input.url : String(input);
    return retrying(url, http, async () => {
      const response = await send(url, http);
      try {
        checkStatus(url, response);
        const pieces: Uint8Array<ArrayBuffer>[] = [];
        let size = 0;
        for (let piece = await response.read(); piece !== undefined; piece = await response.read()) {
          size += piece.length;
          if (size > MAX_ANSWER_BYTES)
            throw new FormatError(`${shown(url)}: expected at most ${MAX_ANSWER_BYTES} bytes`);
          pieces.push(piece as Uint8Array<ArrayBuffer>);
        }
        return new Response(new Blob(pieces), { status: response.status, headers: response.headers });
      } finally {
        response.cancel();
      }
    });
  };
}
