import { COMMAND_ARGUMENTS, COMMAND_BYTES, defineKernel, type Fields, type Kernel, splitRange } from '../kernel.ts';
import type { I32 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i32 } from '../wasm/ops.ts';
import { TILE_FIELDS } from './driver.ts';
import { GROUP, TILE } from './layout.ts';
import { QUANTIZE_FIELDS } from './quantize.ts';

const EXPERT_FIELDS = {
  /** First group of the section, rows of the matrix in front of it, rows of it, bytes of 8 rows. */
  w: 'i32',
  first: 'i32',
  rows: 'i32',
  groupBytes: 'i32',
  columns: 'i32',
  /** Rows of one expert, a multiple of 8. */
  features: 'i32',
  expertCount: 'i32',
  /** Expert of each pair of a row and one of its choices. */
  experts: 'i32',
  pairs: 'i32',
  /** Inputs; pair `p` uses row `floor(p / pairsPerRow)`. */
  x: 'i32',
  pairsPerRow: 'i32',
  /** Results: one row of `features` for each pair. */
  y: 'i32',
  /** Scratch of the first thread, and bytes between threads; see `expertScratchBytes`. */
  scratch: 'i32',
  scratchStride: 'i32',
  /** Table entries of the activation kernel and of the tile kernels. */
  prepare: 'i32',
  tile1: 'i32',
  tile2: 'i32',
  tile3: 'i32',
  tile4: 'i32',
  /** 1: a single row is used as it is. */
  direct: 'i32',
  /** Bytes of activations of a row. */
  codeBytes: 'i32',
  scaleBytes: 'i32',
  sumBytes: 'i32',
} as const;

type Args = Fields<typeof EXPERT_FIELDS>;

/** Offsets inside the scratch of a thread, which begins with a command record. */
interface Layout<N> {
  /** One word per expert: where its pairs begin in `order`, later where they end. */
  readonly starts: N;
  /** Pairs by expert. */
  readonly order: N;
  readonly inputs: N;
  readonly codes: N;
  readonly scales: N;
  readonly sums: N;
  readonly results: N;
  readonly end: N;
}

type Sizes = Pick<Args, 'expertCount' | 'pairs' | 'columns' | 'features' | 'codeBytes' | 'scaleBytes' | 'sumBytes'>;

const ALIGN = 64;

function layoutOf(a: Sizes): Layout<number> {
  let next = COMMAND_BYTES;
  const take = (bytes: number) => {
    const at = next;
    next = Math.ceil((next + bytes) / ALIGN) * ALIGN;
    return at;
  };
  return {
    starts: take(4 * (a.expertCount + 1)),
    order: take(4 * a.pairs),
    inputs: take(4 * TILE * a.columns),
    codes: take(TILE * a.codeBytes),
    scales: take(TILE * a.scaleBytes),
    sums: take(TILE * a.sumBytes),
    results: take(4 * TILE * a.features),
    end: next,
  };
}

/** Bytes of scratch that a thread needs. */
export function expertScratchBytes(sizes: Sizes): number {
  return layoutOf(sizes).end;
}

/** The same in WebAssembly; also writes the scratch address into the results. */
function emitLayout(
  f: FunctionBuilder,
  base: I32,
  a: { readonly [K in keyof Sizes]: Local<'i32'> },
): Layout<Local<'i32'>> {
  const next = f.i32('next', i32.add(base, COMMAND_BYTES));
  const take = (name: string, bytes: I32) => {
    const at = f.i32(name, next);
    next.set(i32.and(i32.add(i32.add(next, bytes), ALIGN - 1), -ALIGN));
    return at;
  };
  return {
    starts: take('starts', i32.shl(i32.add(a.expertCount, 1), 2)),
    order: take('order', i32.shl(a.pairs, 2)),
    inputs: take('inputs', i32.mul(a.columns, 4 * TILE)),
    codes: take('codes', i32.mul(a.codeBytes, TILE)),
    scales: take('scales', i32.mul(a.scaleBytes, TILE)),
    sums: take('sums', i32.mul(a.sumBytes, TILE)),
    results: take('results', i32.mul(a.features, 4 * TILE)),
    end: next,
  };
}

const offsetOf = (fields: object, name: string) => (COMMAND_ARGUMENTS + Object.keys(fields).indexOf(name)) * 4;
const quantizeAt = (name: keyof typeof QUANTIZE_FIELDS) => offsetOf(QUANTIZE_FIELDS, name);
const tileAt = (name: keyof typeof TILE_FIELDS) => offsetOf(TILE_FIELDS, name);

/**
 * Products of rows with the matrices of the experts chosen for them. Every thread sorts the pairs by expert, prepares the
 * inputs of up to four pairs of an expert for itself and computes its share of the rows of their products with the kernels
 * of the weight's family: no thread waits for another.
 */
export const expertsKernel: Kernel<typeof EXPERT_FIELDS> = defineKernel({
  name: 'experts',
  fields: EXPERT_FIELDS,
  emit(f, a, ctx) {
    const record = f.i32('record', i32.add(a.scratch, i32.mul(ctx.tid, a.scratchStride)));
    const at = emitLayout(f, record, a);
    const put = (name: number, value: I32) => f.i32Store(record, value, name);
    emitSort(f, a, at);

    const expert = f.i32('expert');
    const next = f.i32('next');
    const end = f.i32('end');
    const n = f.i32('n');
    const i = f.i32('i');
    const pair = f.i32('pair');
    const low = f.i32('low');
    const high = f.i32('high');
    const input = f.i32('input');
    const rowBytes = f.i32('rowBytes', i32.shl(a.columns, 2));
    const resultBytes = f.i32('resultBytes', i32.shl(a.features, 2));
    const word = (base: Local<'i32'>, index: I32) => i32.load(i32.add(base, i32.shl(index, 2)));
    const inputOf = (p: I32) => i32.add(a.x, i32.mul(i32.divU(p, a.pairsPerRow), rowBytes));
    const from = f.i32('from');
    const to = f.i32('to');
    const share = f.i32('share');

    f.for(expert, 0, a.expertCount, 1, () => {
      // Rows of the expert inside the section.
      low.set(i32.mul(expert, a.features));
      high.set(i32.add(low, a.features));
      low.set(i32.select(i32.ltU(low, a.first), a.first, low));
      const endOfSection = i32.add(a.first, a.rows);
      high.set(i32.select(i32.ltU(endOfSection, high), endOfSection, high));
      next.set(i32.select(expert, word(at.starts, i32.sub(expert, 1)), 0));
      end.set(i32.select(i32.ltU(low, high), word(at.starts, expert), 0));
      f.while(i32.ltU(next, end), () => {
        n.set(i32.sub(end, next));
        n.set(i32.select(i32.ltU(n, TILE), n, TILE));
        pair.set(word(at.order, next));
        input.set(inputOf(pair));
        f.if(i32.gtU(n, 1), () => {
          f.for(i, 0, n, 1, () => {
            f.memoryCopy(i32.add(at.inputs, i32.mul(i, rowBytes)), inputOf(word(at.order, i32.add(next, i))), rowBytes);
          });
          input.set(at.inputs);
        });
        f.if(
          i32.and(i32.eq(n, 1), a.direct),
          () => put(tileAt('x'), input),
          () => {
            put(quantizeAt('x'), input);
            put(quantizeAt('q'), at.codes);
            put(quantizeAt('d'), at.scales);
            put(quantizeAt('s'), at.sums);
            put(quantizeAt('rows'), n);
            put(quantizeAt('columns'), a.columns);
            put(quantizeAt('copyStride'), 0);
            ctx.callKernel(a.prepare, record, 0, 1);
            put(tileAt('x'), at.codes);
          },
        );
        const inside = i32.sub(low, i32.mul(expert, a.features));
        const single = i32.add(i32.add(a.y, i32.mul(pair, resultBytes)), i32.shl(inside, 2));
        put(tileAt('w'), i32.add(a.w, i32.mul(i32.shrU(i32.sub(low, a.first), 3), a.groupBytes)));
        put(tileAt('rows'), i32.sub(high, low));
        put(tileAt('columns'), a.columns);
        put(tileAt('d'), at.scales);
        put(tileAt('s'), at.sums);
        put(tileAt('copyStride'), 0);
        put(tileAt('tiles'), 1);
        put(tileAt('y'), i32.select(i32.eq(n, 1), single, at.results));
        put(tileAt('yStride'), resultBytes);
        put(tileAt('bias'), 0);
        put(tileAt('accumulate'), 0);
        put(tileAt('chunk'), 0);
        const few = i32.select(i32.eq(n, 1), a.tile1, a.tile2);
        const many = i32.select(i32.eq(n, 3), a.tile3, a.tile4);
        ctx.callKernel(i32.select(i32.ltU(n, 3), few, many), record, ctx.tid, ctx.nt);
        f.if(i32.gtU(n, 1), () => {
          // This thread's rows go from the tile to where the pairs want them.
          const groups = i32.shrU(i32.sub(high, low), 3);
          share.set(i32.divU(groups, ctx.nt));
          const rest = i32.remU(groups, ctx.nt);
          const start = (t: I32) => i32.add(i32.mul(t, share), i32.select(i32.ltU(t, rest), t, rest));
          from.set(i32.shl(start(ctx.tid), 5));
          to.set(i32.shl(start(i32.add(ctx.tid, 1)), 5));
          f.for(i, 0, n, 1, () => {
            pair.set(word(at.order, i32.add(next, i)));
            const target = i32.add(i32.add(a.y, i32.mul(pair, resultBytes)), i32.shl(inside, 2));
            f.memoryCopy(
              i32.add(target, from),
              i32.add(i32.add(at.results, i32.mul(i, resultBytes)), from),
              i32.sub(to, from),
            );
          });
        });
        next.inc(n);
      });
    });
  },
  twin(m, a, tid, nt, call) {
    const record = (a.scratch >>> 0) + tid * a.scratchStride;
    const offsets = layoutOf(a);
    const at = (name: keyof Layout<number>) => record + offsets[name];
    const put = (offset: number, value: number) => {
      m.i32[(record + offset) >>> 2] = value;
    };
    const row = a.columns;
    const result = a.features;
    for (let expert = 0; expert < a.expertCount; expert++) {
      const low = Math.max(expert * a.features, a.first);
      const high = Math.min((expert + 1) * a.features, a.first + a.rows);
      if (low >= high) continue;
      const pairs: number[] = [];
      for (let p = 0; p < a.pairs; p++) if (m.i32[(a.experts >>> 2) + p] === expert) pairs.push(p);
      for (let next = 0; next < pairs.length; next += TILE) {
        const chosen = pairs.slice(next, next + TILE);
        const n = chosen.length;
        const inputs = chosen.map((p) => (a.x >>> 2) + Math.floor(p / a.pairsPerRow) * row);
        chosen.forEach((_, i) => {
          m.f32.copyWithin(at('inputs') / 4 + i * row, inputs[i]!, inputs[i]! + row);
        });
        const asIs = n === 1 && a.direct;
        const prepare = { x: at('inputs'), q: at('codes'), d: at('scales'), s: at('sums'), rows: n };
        for (const [name, value] of Object.entries({ ...prepare, columns: a.columns, copyStride: 0 })) {
          put(offsetOf(QUANTIZE_FIELDS, name), value);
        }
        if (!asIs) call(a.prepare, record, 0, 1);
        const tile = {
          w: (a.w >>> 0) + ((low - a.first) / GROUP) * a.groupBytes,
          ...{
            rows: high - low,
            columns: a.columns,
            x: asIs ? at('inputs') : at('codes'),
            d: at('scales'),
            s: at('sums'),
          },
          ...{ copyStride: 0, tiles: 1, y: at('results'), yStride: 4 * result, bias: 0, accumulate: 0, chunk: 0 },
        };
        for (const [name, value] of Object.entries(tile)) put(offsetOf(TILE_FIELDS, name), value);
        call([a.tile1, a.tile2, a.tile3, a.tile4][n - 1]!, record, tid, nt);
        const [from, to] = splitRange((high - low) / GROUP, tid, nt).map((group) => group * GROUP) as [number, number];
        chosen.forEach((p, i) => {
          const start = at('results') / 4 + i * result;
          m.f32.copyWithin((a.y >>> 2) + p * result + low - expert * result + from, start + from, start + to);
        });
      }
    }
  },
});

/** A counting sort of the pairs by expert; afterwards `starts[e]` is the end of the pairs of expert `e` in `order`. */
function emitSort(
  f: FunctionBuilder,
  a: { readonly expertCount: Local<'i32'>; readonly experts: Local<'i32'>; readonly pairs: Local<'i32'> },
  at: Layout<Local<'i32'>>,
): void {
  const p = f.i32('p');
  const slot = f.i32('slot');
  const total = f.i32('total');
  const expertOf = (pair: I32) => i32.load(i32.add(a.experts, i32.shl(pair, 2)));
  f.memoryFill(at.starts, 0, i32.shl(i32.add(a.expertCount, 1), 2));
  // Numbers out of range are counted behind the last expert, where nobody looks.
  const slotOf = (pair: I32) => {
    slot.set(expertOf(pair));
    slot.set(i32.select(i32.ltU(slot, a.expertCount), slot, a.expertCount));
    slot.set(i32.add(at.starts, i32.shl(slot, 2)));
  };
  f.for(p, 0, a.pairs, 1, () => {
    slotOf(p);
    f.i32Store(slot, i32.add(i32.load(slot), 1));
  });
  const count = f.i32('count');
  f.for(p, 0, i32.add(a.expertCount, 1), 1, () => {
    slot.set(i32.add(at.starts, i32.shl(p, 2)));
    count.set(i32.load(slot));
    f.i32Store(slot, total);
    total.inc(count);
  });
  f.for(p, 0, a.pairs, 1, () => {
    slotOf(p);
    count.set(i32.load(slot));
    f.i32Store(i32.add(at.order, i32.shl(count, 2)), p);
    f.i32Store(slot, i32.add(count, 1));
  });
}
