/** `tramontane/quant`: storage formats of weights, and the importance files that writing them takes into account. */
import type { OpenOptions, SourceInput } from './core/io/open.ts';
import { detectPlatform } from './platform/detect.ts';
import { readCimatrix as readCimatrixWith } from './quant/cimatrix.ts';
import { type Imatrix, type ImatrixEntry, readImatrix as readImatrixWith } from './quant/imatrix.ts';

export { writeCimatrix } from './quant/cimatrix.ts';
export { dequantize, type QuantizeOptions, type QuantType, quantize, quantTypes } from './quant/index.ts';
export type { Imatrix, ImatrixEntry, OpenOptions, SourceInput };

/** Reads an importance matrix of llama.cpp, GGUF or older form, by path, URL, `Blob` or bytes. */
export async function readImatrix(input: SourceInput, options: OpenOptions = {}): Promise<Imatrix> {
  return readImatrixWith(input, { platform: await detectPlatform(), ...options });
}

/** Reads a `.cimatrix` file by path, URL, `Blob` or bytes: importance by module path. */
export async function readCimatrix(input: SourceInput, options: OpenOptions = {}): Promise<Map<string, Float32Array>> {
  return readCimatrixWith(input, { platform: await detectPlatform(), ...options });
}
