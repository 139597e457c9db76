/**
 * Every optional op written with required ones: what runs where a back-end has no kernel of its own, and what its kernel
 * is compared with.
 */
export * from './composed/attention.ts';
export * from './composed/experts.ts';
export * from './composed/normalize.ts';
export * from './composed/recurrent.ts';
export * from './composed/rope.ts';
export * from './composed/spatial.ts';
export * from './composed/statistics.ts';
