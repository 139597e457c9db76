/** Eight sign bits from a 7-bit code: the eighth bit makes their number even. */
export function evenSigns(code: number): number {
  let parity = code ^ (code >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return code | ((parity & 1) << 7);
}
