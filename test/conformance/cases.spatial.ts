import fc from 'fast-check';
import * as ops from '../../src/core/ops.ts';
import { type Case, define, some } from './case.ts';

const axis = fc.record({
  size: fc.integer({ min: 5, max: 12 }),
  kernel: fc.integer({ min: 1, max: 4 }),
  stride: fc.integer({ min: 1, max: 3 }),
  padding: fc.integer({ min: 0, max: 2 }),
  dilation: fc.integer({ min: 1, max: 2 }),
  extra: fc.integer({ min: 0, max: 1 }),
});
const convolution = fc.record({
  batch: fc.integer({ min: 1, max: 2 }),
  axes: fc.array(axis, { minLength: 1, maxLength: 3 }),
  groups: fc.constantFrom(1, 1, 2, 3),
  inPerGroup: fc.integer({ min: 1, max: 5 }),
  outPerGroup: fc.integer({ min: 1, max: 6 }),
  biased: fc.boolean(),
});

export const spatialCases: readonly Case[] = [
  define('conv', '', convolution, (e, p) => {
    const list = (key: 'size' | 'kernel' | 'stride' | 'padding' | 'dilation') => p.axes.map((a) => a[key]);
    const x = e.normal([p.batch, p.groups * p.inPerGroup, ...list('size')]);
    const w = e.normal([p.groups * p.outPerGroup, p.inPerGroup, ...list('kernel')]);
    const bias = p.biased ? e.normal([p.groups * p.outPerGroup]) : undefined;
    const { groups } = p;
    return ops.conv(x, w, {
      stride: list('stride'),
      padding: list('padding'),
      dilation: list('dilation'),
      groups,
      bias,
    });
  }),
  define('convTranspose', '', convolution, (e, p) => {
    const list = (key: 'size' | 'kernel' | 'stride' | 'padding' | 'dilation' | 'extra') => p.axes.map((a) => a[key]);
    const x = e.normal([p.batch, p.groups * p.inPerGroup, ...list('size')]);
    const w = e.normal([p.groups * p.inPerGroup, p.outPerGroup, ...list('kernel')]);
    const bias = p.biased ? e.normal([p.groups * p.outPerGroup]) : undefined;
    return ops.convTranspose(x, w, {
      ...{ stride: list('stride'), padding: list('padding'), dilation: list('dilation'), groups: p.groups, bias },
      outputPadding: p.axes.map((a) => Math.min(a.extra, a.stride - 1)),
    });
  }),
  define(
    'pool',
    '',
    fc.record({
      lead: fc.array(some, { maxLength: 2 }),
      axes: fc.array(axis, { minLength: 1, maxLength: 3 }),
      kind: fc.constantFrom('max', 'mean' as const),
    }),
    (e, p) =>
      ops.pool(e.normal([...p.lead, ...p.axes.map((a) => a.size)]), {
        kind: p.kind,
        size: p.axes.map((a) => a.kernel),
        stride: p.axes.map((a) => a.stride),
      }),
  ),
  define(
    'resize',
    '',
    fc.record({
      h: some,
      w: some,
      toH: fc.integer({ min: 1, max: 15 }),
      toW: fc.integer({ min: 1, max: 15 }),
      mode: fc.constantFrom('nearest', 'bilinear', 'bicubic' as const),
      alignCorners: fc.boolean(),
    }),
    (e, p) => ops.resize(e.normal([2, 3, p.h, p.w]), p.toH, p.toW, { mode: p.mode, alignCorners: p.alignCorners }),
  ),
];
