// Q4_K and Q5_K keep eight 6-bit scales and eight 6-bit minima in 12 bytes: bytes 0–3 and 4–7 hold those of groups
// 0–3 in their low six bits; bytes 8–11 hold the low nibbles of groups 4–7 (scale low, minimum high), whose top two
// bits lie in the top bits of bytes 0–3 and 4–7.

/** The 6-bit scale of group 0…7. */
export function scaleOf(bytes: Uint8Array, at: number, group: number): number {
  return group < 4 ? bytes[at + group]! & 63 : (bytes[at + group + 4]! & 15) | ((bytes[at + group - 4]! >> 6) << 4);
}

/** The 6-bit minimum of group 0…7. */
export function minOf(bytes: Uint8Array, at: number, group: number): number {
  return group < 4 ? bytes[at + group + 4]! & 63 : (bytes[at + group + 4]! >> 4) | ((bytes[at + group]! >> 6) << 4);
}
