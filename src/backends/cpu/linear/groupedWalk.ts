import type { KernelContext } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i32, v128 } from '../wasm/ops.ts';
import { type GroupedFormat, SCALES, sizesOf } from './grouped.ts';
import { stepDecoder } from './groupedCodes.ts';
import { QUADS } from './layout.ts';

/** Uses the numbers of one column of 8 rows; `column` counts within its step. */
type UseColumn = (quads: readonly Local<'v128'>[], column: number) => void;

/**
 * Emits a walk over the columns of 8 rows: `at` goes from their first byte to `end`. After each step `endStep` is
 * emitted. `exact`: scale and bias are applied with two roundings in every variant.
 */
export function walkColumns(
  f: FunctionBuilder,
  format: GroupedFormat,
  ctx: KernelContext,
  at: Local<'i32'>,
  end: Local<'i32'>,
  how: { readonly exact: boolean; readonly use: UseColumn; readonly endStep: () => void },
): void {
  const { step, header, index, stride } = sizesOf(format);
  const numbers = Array.from({ length: step }, (_, c) => f.v128s(`number${c}_`, QUADS));
  const decode = stepDecoder(f, format, ctx.variant, numbers);
  const scales = f.v128s('scale', QUADS);
  const biases = f.v128s('bias', QUADS);
  const apply = how.exact ? (a: V128, b: V128, c: V128) => f32x4.add(f32x4.mul(a, b), c) : ctx.madd;
  const loadHeader = (from: Local<'i32'>) => {
    for (let quad = 0; quad < QUADS; quad++) {
      scales[quad]!.set(v128.load(from, 16 * quad));
      if (format.bias) biases[quad]!.set(v128.load(from, SCALES + 16 * quad));
    }
  };
  const useColumn = (column: number) => {
    numbers[column]!.forEach((number, quad) => {
      const scale = scales[quad]!;
      number.set(format.bias ? apply(number, scale, biases[quad]!) : f32x4.mul(number, scale));
    });
    how.use(numbers[column]!, column);
  };

  if (format.indexed) {
    const first = f.i32('firstHeader', at);
    const own = f.i32('ownHeader');
    at.inc(format.group * header);
    f.while(i32.ltU(at, end), () => {
      decode(at, index);
      for (let column = 0; column < step; column++) {
        own.set(i32.add(first, i32.mul(i32.load16U(at, 2 * column), header)));
        loadHeader(own);
        useColumn(column);
      }
      at.inc(stride);
      how.endStep();
    });
    return;
  }
  const groupEnd = f.i32('groupEnd', end);
  f.while(i32.ltU(at, end), () => {
    loadHeader(at);
    at.inc(header);
    if (format.group) {
      groupEnd.set(i32.add(at, (format.group / step) * stride));
      f.if(i32.gtU(groupEnd, end), () => groupEnd.set(end));
    }
    f.while(i32.ltU(at, groupEnd), () => {
      decode(at, 0);
      for (let column = 0; column < step; column++) useColumn(column);
      at.inc(stride);
      how.endStep();
    });
  });
}
