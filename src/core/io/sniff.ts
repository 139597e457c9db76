/** Recognises files that are something else than what a reader expects, so that its error can say so. */

/** What the first bytes of a file look like: a sentence part for an error text, `undefined` when unknown. */
export function looksLike(bytes: Uint8Array): string | undefined {
  const text = String.fromCharCode(...bytes.subarray(0, 32));
  if (text.startsWith('version https://git-lfs')) return 'a Git LFS pointer; fetch the file itself with `git lfs pull`';
  if (/^\s*<(!doctype|html)/i.test(text)) return 'a web page; the download was answered by an error or login page';
  if (text.startsWith('PK\u0003\u0004')) return 'a zip archive, as PyTorch writes; convert it to safetensors';
  if (text.startsWith('GGUF')) return 'a GGUF file';
  if (/^(ggml|ggjt|ggla|ggmf|lmgg|tjgg)/.test(text)) return 'a file of an older GGML format; convert it to GGUF';
  if (text.startsWith('{', 8)) return 'a safetensors file';
  return undefined;
}

/** The first bytes for an error text: their meaning where it is known, else the bytes. */
export function shownBytes(bytes: Uint8Array): string {
  const head = Array.from(bytes.subarray(0, 4), (b) => b.toString(16).padStart(2, '0')).join(' ');
  return looksLike(bytes) ?? (head === '' ? 'an empty file' : `bytes ${head}`);
}
