/** What the recurrent kernels share: sequences with their states, and loops over columns that keep several vectors busy. */
import { type KernelContext, split, splitRange, type Views } from '../../kernel.ts';
import type { Expr, V128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/function.ts';
import { i32, v128 } from '../../wasm/ops.ts';
import { forColumns } from '../loops.ts';

type I32 = Expr<'i32'>;

/** Where the rows of each sequence are, and the number of its state. */
export const SEQUENCE_FIELDS = { seqStart: 'i32', kvLen: 'i32', stateSlots: 'i32', sequences: 'i32' } as const;

type SequenceArgs = { readonly [K in keyof typeof SEQUENCE_FIELDS]: Local<'i32'> };
type SequenceNumbers = { readonly [K in keyof typeof SEQUENCE_FIELDS]: number };

/** Loads first row, end and slot of sequence `s`, and whether it starts with these rows. */
export function sequenceAt(f: FunctionBuilder, a: SequenceArgs, s: I32) {
  const at = f.i32('at', i32.shl(s, 2));
  const first = f.i32('first', i32.load(i32.add(a.seqStart, at)));
  const end = f.i32('end', i32.load(i32.add(a.seqStart, at), 4));
  const slot = f.i32('slot', i32.load(i32.add(a.stateSlots, at)));
  const fresh = f.i32('fresh', i32.eq(i32.load(i32.add(a.kvLen, at)), i32.sub(end, first)));
  return { first, end, slot, fresh };
}

export function sequenceTwin(memory: Views, a: SequenceNumbers, s: number) {
  const first = memory.i32[(a.seqStart >>> 2) + s]!;
  const end = memory.i32[(a.seqStart >>> 2) + s + 1]!;
  const fresh = memory.i32[(a.kvLen >>> 2) + s] === end - first;
  return { first, end, slot: memory.i32[(a.stateSlots >>> 2) + s]!, fresh };
}

/** One head of one sequence; `state` is the address of its matrix. */
interface Unit<N> {
  readonly head: N;
  readonly first: N;
  readonly end: N;
  readonly state: N;
}

/** Runs `body` for this thread's heads of all sequences. The states of those that start are zeroed first. */
export function forUnits(
  f: FunctionBuilder,
  ctx: KernelContext,
  a: SequenceArgs & { readonly heads: Local<'i32'>; readonly state: Local<'i32'> },
  stateBytes: I32,
  body: (unit: Unit<Local<'i32'>>) => void,
): void {
  const { from, to } = split(f, i32.mul(a.sequences, a.heads), ctx);
  const unit = f.i32('unit');
  f.for(unit, from, to, 1, () => {
    const head = f.i32('head', i32.remU(unit, a.heads));
    const { first, end, slot, fresh } = sequenceAt(f, a, i32.divU(unit, a.heads));
    f.if(i32.ltU(first, end), () => {
      const which = i32.add(i32.mul(slot, a.heads), head);
      const state = f.i32('own', i32.add(a.state, i32.mul(which, stateBytes)));
      f.if(fresh, () => f.memoryFill(state, 0, stateBytes));
      body({ head, first, end, state });
    });
  });
}

/** The same for twins; `state` is a word position. */
export function forUnitsTwin(
  memory: Views,
  a: SequenceNumbers & { readonly heads: number; readonly state: number },
  stateSize: number,
  tid: number,
  nt: number,
  body: (unit: Unit<number>) => void,
): void {
  const [from, to] = splitRange(a.sequences * a.heads, tid, nt);
  for (let unit = from; unit < to; unit++) {
    const head = unit % a.heads;
    const { first, end, slot, fresh } = sequenceTwin(memory, a, Math.floor(unit / a.heads));
    if (first === end) continue;
    const state = (a.state >>> 2) + (slot * a.heads + head) * stateSize;
    if (fresh) memory.f32.fill(0, state, state + stateSize);
    body({ head, first, end, state });
  }
}

/** Up to four floats at a pointer. */
export interface Part {
  load(pointer: I32): Local<'v128'>;
  store(pointer: I32, value: V128): void;
}

const GROUP = 4;
const GROUP_BYTES = 16 * GROUP;

/** Like `forColumns`, but `body` works on four vectors side by side while so many are left. */
export function forColumnGroups(
  f: FunctionBuilder,
  bytes: I32,
  pointers: readonly Local<'i32'>[],
  body: (parts: readonly Part[]) => void,
): void {
  const rest = f.i32('rest', bytes);
  const parts = Array.from(
    { length: GROUP },
    (_, i): Part => ({
      load: (p) => f.v128('x', v128.load(p, 16 * i)),
      store: (p, value) => f.v128Store(p, value, 16 * i),
    }),
  );
  f.while(i32.geS(rest, GROUP_BYTES), () => {
    body(parts);
    for (const p of pointers) p.inc(GROUP_BYTES);
    rest.inc(-GROUP_BYTES);
  });
  forColumns(f, rest, pointers, (column) => body([column]));
}
