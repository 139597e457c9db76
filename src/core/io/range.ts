import { FormatError } from '../errors.ts';

/** Throws `FormatError` unless `[start, end)` lies inside the source. */
export function checkRange(source: { readonly name: string; readonly size: number }, start: number, end: number): void {
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end < start || end > source.size) {
    throw new FormatError(`${source.name}: expected a range within ${source.size} bytes, got ${start} to ${end}`);
  }
}
