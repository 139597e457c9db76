/** Quantized storage types: decoding, encoding, and what exists. */
export type { Pack, QuantFormat, Unpack } from './format.ts';
export { type QuantType, quantFormat, quantTypes } from './registry.ts';
export { dequantize, dequantizeInto, type QuantizeOptions, quantize } from './rows.ts';
