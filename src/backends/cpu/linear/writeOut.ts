import type { Views } from '../kernel.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i32, v128 } from '../wasm/ops.ts';
import { GROUP } from './layout.ts';

interface Target {
  /** Result of the first token and the first row; ends at the token behind the tile. */
  readonly py: Local<'i32'>;
  readonly stride: Local<'i32'>;
  /** Rows from the first one to the end of the section. */
  readonly rowsLeft: Local<'i32'>;
  readonly bias: Local<'i32'>;
  readonly accumulate: Local<'i32'>;
}

/** Stores `sums[token][quad]` of one group, plus bias, plus what was there; rows behind the last one are left alone. */
export function writeOut(f: FunctionBuilder, sums: readonly (readonly Local<'v128'>[])[], t: Target): void {
  for (const row of sums) {
    f.if(t.bias, () => {
      row.forEach((sum, q) => {
        sum.set(f32x4.add(sum, v128.load(t.bias, 16 * q)));
      });
    });
    f.if(t.accumulate, () => {
      row.forEach((sum, q) => {
        sum.set(f32x4.add(sum, v128.load(t.py, 16 * q)));
      });
    });
    f.if(
      i32.geS(t.rowsLeft, GROUP),
      () => {
        row.forEach((sum, q) => {
          f.v128Store(t.py, sum, 16 * q);
        });
      },
      () => {
        for (let lane = 0; lane < GROUP; lane++) {
          f.if(i32.gtS(t.rowsLeft, lane), () => f.v128StoreLane(32, t.py, row[lane >> 2]!, lane & 3, 4 * lane));
        }
      },
    );
    t.py.inc(t.stride);
  }
}

interface TargetFields {
  readonly y: number;
  readonly yStride: number;
  readonly bias: number;
  readonly accumulate: number;
}

export function writeOutTwin(m: Views, sum: number, row: number, token: number, a: TargetFields): void {
  const at = ((a.y + token * a.yStride) >>> 2) + row;
  if (a.bias) sum = Math.fround(sum + m.f32[(a.bias >>> 2) + row]!);
  if (a.accumulate) sum = Math.fround(sum + m.f32[at]!);
  m.f32[at] = sum;
}
