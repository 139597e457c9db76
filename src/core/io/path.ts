/** Path arithmetic on strings. `/` works in every runtime, also on Windows; `\` is understood when read. */

/** Joins parts with `/`, without doubling separators. Empty parts are skipped. */
export function joinPath(...parts: readonly string[]): string {
  let path = '';
  for (const part of parts) {
    if (part === '') continue;
    path = path === '' || /[/\\]$/.test(path) ? path + part : `${path}/${part}`;
  }
  return path;
}

/** The part after the last separator. */
export function baseName(path: string): string {
  return path.slice(cut(path) + 1);
}

/** The part before the last separator: `.` when there is none, the root for children of the root. */
export function dirName(path: string): string {
  const at = cut(path);
  if (at < 0) return '.';
  return at === 0 ? path.slice(0, 1) : path.slice(0, at);
}

/**
 * Whether a relative path from a foreign source (a shard list, a hub listing) stays inside its folder: no absolute
 * path, no `..`, no drive letter, no empty step, no control character.
 */
export function isSafeRelativePath(path: string): boolean {
  if (path.length === 0 || path.length > 1024) return false;
  for (let i = 0; i < path.length; i++) {
    const c = path.charCodeAt(i);
    if (c < 32 || c === 0x7f || c === 0x5c || c === 0x3a) return false; // control characters, backslash, colon
  }
  return path.split('/').every((step) => step !== '' && step !== '.' && step !== '..');
}

/** Whether a name from a foreign source names a file directly in its folder. */
export function isSafeFileName(name: string): boolean {
  return isSafeRelativePath(name) && !name.includes('/');
}

function cut(path: string): number {
  return Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\'));
}
