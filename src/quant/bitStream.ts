// Codes as one little-endian stream: code `i` lies at bits `i · bits` … of it.

/** Code `index` of the stream that starts at byte `at`; `bits` is at most 8. */
export function codeAt(bytes: Uint8Array, at: number, bits: number, index: number): number {
  const bit = index * bits;
  const first = at + (bit >> 3);
  const shift = bit & 7;
  const low = bytes[first]! >> shift;
  return (shift + bits > 8 ? low | (bytes[first + 1]! << (8 - shift)) : low) & ((1 << bits) - 1);
}

/** The first `count` codes of the stream that starts at byte `at`, a byte each. */
export function codesInto(
  bytes: Uint8Array,
  at: number,
  bits: number,
  out: Uint8Array,
  outAt: number,
  count: number,
): void {
  const mask = (1 << bits) - 1;
  let word = 0;
  let left = 0;
  for (let i = 0; i < count; i++) {
    if (left < bits) {
      word |= bytes[at++]! << left;
      left += 8;
    }
    out[outAt + i] = word & mask;
    word >>= bits;
    left -= bits;
  }
}

/** Adds a code to a stream whose bits there are zero. */
export function putCodeAt(bytes: Uint8Array, at: number, bits: number, index: number, code: number): void {
  const bit = index * bits;
  const first = at + (bit >> 3);
  const shift = bit & 7;
  bytes[first]! |= code << shift;
  if (shift + bits > 8) bytes[first + 1]! |= code >> (8 - shift);
}
