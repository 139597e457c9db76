import type { Tensor } from '../../../core/tensor.ts';
import { lazy, type OpHost } from '../host.ts';
import type { Kernel } from '../kernel.ts';
import type { Recorder } from '../recorder.ts';
import { storageOf } from '../storage.ts';
import { ITEM, LANES } from '../wgsl.ts';
import { UNIT } from './repack.ts';
import type { GpuWeight, Piece } from './weight.ts';

/** A workgroup for each part of the matrix and of the rows, whose groups go on along z where x has too few. */
export function dispatchParts(host: OpHost, parts: number, rowGroups: number): void {
  const z = Math.ceil(rowGroups / host.gpu.facts.maxWorkgroups);
  host.recorder.dispatch(Math.ceil(rowGroups / z), parts, z);
}

/** Binds the matrix part of a kernel: vectors and single words. */
export function bindMatrix(recorder: Recorder, piece: Piece): Recorder {
  return recorder.bindStorage(piece.storage).bindStorage(piece.storage, piece.singlesAt);
}

/** The numbers of the matrix. `width`: columns of the result. */
export function putMatrix(recorder: Recorder, w: GpuWeight, piece: Piece, width: number): Recorder {
  return recorder.u(w.units).u(piece.vectors).u(piece.singles).u(piece.rows).u(piece.first).u(width);
}

/** Gives activations as kernels read them: whole units a row, at a multiple of four words, not in the buffer of `out`. */
export function activations(host: OpHost): (x: Tensor, w: GpuWeight, out: Tensor) => Tensor {
  const { recorder } = host;
  const pad: () => Kernel = lazy(host, () => ({
    label: 'pad rows',
    reads: [['x', 'f32']],
    writes: [['out', 'f32']],
    numbers: [
      ['n', 'u32'],
      ['width', 'u32'],
      ['padded', 'u32'],
    ],
    workgroup: [LANES, 1, 1],
    body: `${ITEM}
if (item >= p.n) { return; }
let c = item % p.padded;
var v = 0.0;
if (c < p.width) { v = x(item / p.padded * p.width + c); }
set_out(item, v);`,
  }));
  return (x, w, out) => {
    const padded = w.units * UNIT;
    if (padded === w.columns && x.offset % 4 === 0 && storageOf(x) !== storageOf(out)) return x;
    const copy = host.scratch(x.rowCount, padded);
    recorder.start(pad()).bind(x).bind(copy).u(copy.size).u(w.columns).u(padded).dispatchItems(copy.size, LANES);
    return copy;
  };
}
