/** `tramontane/quant`: storage formats of weights. */
export { dequantize, type QuantizeOptions, type QuantType, quantize, quantTypes } from './quant/index.ts';
