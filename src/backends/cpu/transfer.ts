import { defineKernel, split } from './kernel.ts';
import type { FunctionRef } from './wasm/function.ts';
import { i32 } from './wasm/ops.ts';

const TRANSFER_FIELDS = {
  toMemory: 'i32',
  target: 'i32',
  targetStride: 'i32',
  fromMemory: 'i32',
  source: 'i32',
  sourceStride: 'i32',
  rowBytes: 'i32',
  rows: 'i32',
} as const;

/**
 * Copies rows between memories, through the host: WebAssembly sees only its own. `copy` is the imported function
 * `(toMemory, target, fromMemory, source, bytes)`. There is no twin: without SIMD there is one memory.
 */
export const transferKernel = (copy: FunctionRef) =>
  defineKernel({
    name: 'transfer',
    fields: TRANSFER_FIELDS,
    emit(f, a, ctx) {
      const { from, to } = split(f, a.rows, ctx);
      const row = f.i32('row');
      f.for(row, from, to, 1, () => {
        const target = i32.add(a.target, i32.mul(row, a.targetStride));
        const source = i32.add(a.source, i32.mul(row, a.sourceStride));
        f.call(copy, a.toMemory, target, a.fromMemory, source, a.rowBytes);
      });
    },
    twin() {},
  });

/** Word offsets of the arguments. */
export const TRANSFER_AT = transferKernel({ name: '', index: 0, typeIndex: 0, params: [], result: undefined }).at;
