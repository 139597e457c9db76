/**
 * The operations model code calls. Each checks shapes and element types (`ShapeError`), allocates the result — from the
 * arena inside `backend.scope` — and enqueues the back-end's kernel, or its composition where there is none.
 */
export * from './ops/attention.ts';
export * from './ops/conv.ts';
export * from './ops/elementwise.ts';
export * from './ops/experts.ts';
export * from './ops/layout.ts';
export * from './ops/linear.ts';
export * from './ops/normalize.ts';
export * from './ops/recurrent.ts';
export * from './ops/reduce.ts';
export * from './ops/spatial.ts';
export * from './ops/statistics.ts';
