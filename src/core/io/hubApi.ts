/** Questions to the hub: which commit a revision is, which files it has. */
import { FormatError, ModelLoadError } from '../errors.ts';
import type { HttpOptions } from './http.ts';
import { checkStatus, HttpStatusError, retrying, send, shown } from './http.ts';
import { parseJson } from './json.ts';
import { isSafeRelativePath } from './path.ts';

/** Answers are lists of files, 1000 a page. */
const MAX_ANSWER_BYTES = 16_000_000;
/** The largest model repositories have a few thousand files. */
const MAX_FILES = 100_000;
const MAX_PAGES = 1000;
const NOT_THE_API = "expected an answer of the hub's API, got something else";
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

/**
 * Asks the hub for a revision's commit and files: its public API, `models/<id>/revision/<revision>` and the pages of
 * `tree`. Throws `ModelLoadError` that says what was refused.
 */
export async function listRepo(id: string, revision: string, endpoint: string, http: HttpOptions): Promise<HubListing> {
  const api = `${endpoint}/api/models/${id}`;
  try {
    const { value } = await ask(`${api}/revision/${encodeURIComponent(revision)}?expand=sha`, http);
    const commit = (value as { readonly sha?: unknown } | null)?.sha;
    if (typeof commit !== 'string' || !isCommit(commit)) {
      throw new FormatError(`${shown(api)}: expected a commit hash`);
    }
    const files: HubFile[] = [];
    let url: string | undefined = `${api}/tree/${commit}?recursive=true`;
    for (let pages = 0; url !== undefined; pages++) {
      if (pages >= MAX_PAGES) throw new FormatError(`${shown(api)}: expected at most ${MAX_PAGES} pages of files`);
      const page: Answer = await ask(url, http);
      if (!Array.isArray(page.value)) throw new FormatError(`${shown(url)}: ${NOT_THE_API}`);
      for (const entry of page.value as readonly unknown[]) {
        if (files.length >= MAX_FILES) throw new FormatError(`${shown(api)}: expected at most ${MAX_FILES} files`);
        const file = fileOf(entry, api);
        if (file !== undefined) files.push(file);
      }
      url = nextPage(url, page.link);
    }
    return { commit, files };
  } catch (error) {
    throw error instanceof HttpStatusError ? refusal(id, revision, error) : error;
  }
}

/** A file of a page of `tree`; `undefined` for what is none, or lies outside the folder: nothing of it may be written. */
function fileOf(entry: unknown, api: string): HubFile | undefined {
  const { type, path, size, oid, lfs } = (entry ?? {}) as Readonly<Record<string, unknown>>;
  if (type !== 'file' || typeof path !== 'string' || !isSafeRelativePath(path)) return undefined;
  const etag = (lfs as { readonly oid?: unknown } | null | undefined)?.oid ?? oid;
  if (typeof etag !== 'string' || !ETAG.test(etag) || !Number.isSafeInteger(size) || (size as number) < 0) {
    throw new FormatError(`${shown(api)}: ${path}: expected size and hash of the file`);
  }
  return { path, size: size as number, etag };
}

/** The address behind `rel="next"`, which must be of the same server: the request for it carries the token. */
function nextPage(url: string, link: string | null): string | undefined {
  const next = /<([^<>]{1,8192})>\s*;\s*rel="?next"?/.exec(link ?? '')?.[1];
  if (next === undefined) return undefined;
  const { origin } = new URL(url);
  const resolved = URL.canParse(next, url) ? new URL(next, url) : undefined;
  if (resolved?.origin !== origin) {
    throw new FormatError(
      `${shown(url)}: expected the next page of files at ${origin}, got ${shown(next).slice(0, 200)}`,
    );
  }
  return resolved.href;
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

interface Answer {
  readonly value: unknown;
  readonly link: string | null;
}

/** An answer of the API, bounded and read whole; with retries, timeouts and cancellation. */
function ask(url: string, http: HttpOptions): Promise<Answer> {
  return retrying(url, http, async () => {
    const response = await send(url, http);
    try {
      checkStatus(url, response);
      const pieces: Uint8Array<ArrayBuffer>[] = [];
      let size = 0;
      for (let piece = await response.read(); piece !== undefined; piece = await response.read()) {
        size += piece.length;
        if (size > MAX_ANSWER_BYTES) throw new FormatError(`${shown(url)}: expected at most ${MAX_ANSWER_BYTES} bytes`);
        pieces.push(piece as Uint8Array<ArrayBuffer>);
      }
      return { value: parsed(await new Blob(pieces).text(), url), link: response.headers.get('link') };
    } finally {
      response.cancel();
    }
  });
}

function parsed(text: string, url: string): unknown {
  try {
    return parseJson(text, { name: shown(url) });
  } catch (error) {
    throw new FormatError(`${shown(url)}: ${NOT_THE_API}`, { cause: error });
  }
}
