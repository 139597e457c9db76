import type { RawWeight, RequiredOps, WeightData } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import type { Weight } from '../../../core/weight.ts';
import type { OpHost } from '../host.ts';
import { ACCUMULATE, type FewKernel, type FormatKernels, WITH_BIAS } from '../linear/kernels.ts';
import { WeightLoader } from '../linear/load.ts';
import { quantizedRows } from '../linear/quantize.ts';
import { activations, bindMatrix, dispatchParts, putMatrix } from '../linear/record.ts';
import { SLAB } from '../linear/repack.ts';
import { TILE } from '../linear/tile.ts';
import { dataOf } from '../linear/weight.ts';
import { LANES } from '../wgsl.ts';
import { expertOps } from './experts.ts';
import { matmulOps } from './matmul.ts';

/** Up to so many rows are taken a few at a time; more pay for a tile of 64. */
const FEW_ROWS = 16;

/** The ops over stored matrices, and what loads them. */
export function linearOps(host: OpHost): {
  readonly ops: Pick<RequiredOps, 'linear' | 'matmul'> & ReturnType<typeof expertOps>;
  readonly loadWeight: (raw: RawWeight) => Promise<WeightData>;
  /** Rows of a matrix by number, dequantized. */
  readonly gatherWeight: (out: Tensor, table: Weight, ids: Tensor) => void;
} {
  const { recorder } = host;
  const loader = new WeightLoader(host);
  const prepared = activations(host);
  const quantized = quantizedRows(host);
  return {
    ops: {
      linear(out, x, weight, options) {
        const w = dataOf(weight);
        const rows = x.rowCount;
        const tiled = rows > FEW_ROWS;
        const flags = (options.bias ? WITH_BIAS : 0) | (options.accumulate ? ACCUMULATE : 0);
        let floats: Tensor | undefined;
        let codes: Tensor | undefined;
        for (const piece of w.pieces) {
          const few = fewOf(piece.kernels, rows);
          const integers = tiled && piece.kernels.int8;
          const source = integers ? (codes ??= quantized(x, w)) : (floats ??= prepared(x, w, out));
          recorder.start(tiled ? piece.kernels.tile() : few.kernel()).bind(source);
          bindMatrix(recorder, piece);
          if (options.bias) recorder.bind(options.bias);
          else recorder.bindStorage(piece.storage);
          recorder.bind(out);
          putMatrix(recorder, w, piece, weight.shape[0]).u(rows).u(flags);
          if (tiled) {
            dispatchParts(host, Math.ceil(piece.rows / TILE), Math.ceil(rows / TILE));
            recorder.heavy();
          } else dispatchParts(host, Math.ceil(piece.rows / SLAB), Math.ceil(rows / few.rows));
        }
      },
      ...matmulOps(host),
      ...expertOps(host, prepared, quantized),
    },
    loadWeight: (raw) => loader.load(raw),
    gatherWeight(out, table, ids) {
      const w = dataOf(table);
      const rows = out.size / w.columns;
      for (const piece of w.pieces) {
        bindMatrix(recorder.start(piece.kernels.gather()), piece).bind(ids).bind(out);
        putMatrix(recorder, w, piece, w.columns)
          .u(rows)
          .dispatchItems(rows * w.units, LANES);
      }
    },
  };
}

/** The kernel for so many rows: the smallest that takes them at once, else the largest. */
function fewOf({ few }: FormatKernels, rows: number): FewKernel {
  for (let i = 0; i < few.length; i++) if ((few[i] as FewKernel).rows >= rows) return few[i] as FewKernel;
  return few[few.length - 1] as FewKernel;
}
