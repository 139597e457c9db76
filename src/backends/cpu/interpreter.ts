import { COMMAND_BYTES, COMMAND_FLAGS, COMMAND_KERNEL } from './kernel.ts';
import { CONTROL, PROGRESS_BASE, PROGRESS_STRIDE, RING_BASE, RING_COMMANDS } from './memoryMap.ts';
import type { Expr, I32 } from './wasm/expr.ts';
import type { FunctionBuilder, FunctionRef, Local } from './wasm/function.ts';
import type { ModuleBuilder } from './wasm/module.ts';
import { i32 } from './wasm/ops.ts';

/** Bits of a command's flag word. */
export const FLAG = {
  /** The next command does not depend on this one: no barrier behind it. */
  independent: 1,
  /** Thread 0 calls `env.signal` once all threads are here. */
  signal: 2,
  /** Every thread returns from `run`. */
  leave: 4,
} as const;

/** Table entries of the interpreter's own kernels: nothing, and copies between memories. Others follow. */
export const NOP = 0;
export const TRANSFER = 1;
export const FIRST_ENTRY = 2;

/** Log2 of the bytes of a command. */
const COMMAND_SHIFT = Math.log2(COMMAND_BYTES);

/**
 * Adds `run(tid, nt, position) -> position`: executes commands from `position` on, waiting for more, until one says
 * `leave`; and `runInline(from, to)` for a caller that executes its own commands (waiting would trap on unshared memory).
 */
export function addInterpreter(m: ModuleBuilder, kernelType: FunctionRef, imports: { signal: FunctionRef }): void {
  const wait = m.function('waitForCommands', { position: 'i32' }, (f, { position }) => waitForCommands(f, position));
  const barrier = m.function('barrier', { nt: 'i32' }, (f, { nt }) => meet(f, nt));
  m.function(
    'run',
    { tid: 'i32', nt: 'i32', position: 'i32' },
    (f, { tid, nt, position }) => {
      const end = f.i32('end');
      const command = f.i32('command');
      const flags = f.i32('flags');
      const progress = f.i32('progress', i32.add(PROGRESS_BASE, i32.mul(tid, PROGRESS_STRIDE)));
      f.loop((forever) => {
        f.call(wait, position);
        end.set(i32.atomicLoad(CONTROL.published));
        f.doWhile(
          () => {
            command.set(addressOf(position));
            flags.set(i32.load(command, COMMAND_FLAGS * 4));
            f.callIndirect(kernelType, i32.load(command, COMMAND_KERNEL * 4), command, tid, nt);
            position.inc(1);
            f.if(i32.and(i32.gtU(nt, 1), i32.eqz(i32.and(flags, FLAG.independent))), () => f.call(barrier, nt));
            f.atomicStore(progress, position);
            f.if(i32.and(flags, FLAG.signal), () => {
              f.if(i32.eqz(tid), () => f.call(imports.signal));
            });
            f.if(i32.and(flags, FLAG.leave), () => f.return(position));
          },
          i32.ne(position, end),
        );
        f.branch(forever);
      });
      f.unreachable();
    },
    { export: true, result: 'i32' },
  );
  m.function(
    'runInline',
    { from: 'i32', to: 'i32' },
    (f, { from, to }) => {
      const command = f.i32('command');
      f.while(i32.ne(from, to), () => {
        command.set(addressOf(from));
        f.callIndirect(kernelType, i32.load(command, COMMAND_KERNEL * 4), command, 0, 1);
        from.inc(1);
      });
    },
    { export: true },
  );
}

function addressOf(position: I32): Expr<'i32'> {
  return i32.add(RING_BASE, i32.shl(i32.and(position, RING_COMMANDS - 1), COMMAND_SHIFT));
}

/** Spins, then sleeps, until `published` differs from `position`. */
function waitForCommands(f: FunctionBuilder, position: Local<'i32'>): void {
  const spins = f.i32('spins', i32.load(CONTROL.spin));
  f.loop((again) => {
    f.if(i32.ne(i32.atomicLoad(CONTROL.published), position), () => f.return());
    f.if(spins, () => {
      spins.inc(-1);
      f.branch(again);
    });
    f.drop(i32.atomicAdd(CONTROL.sleepers, 1));
    f.atomicWait32(CONTROL.published, position);
    f.drop(i32.atomicSub(CONTROL.sleepers, 1));
    f.branch(again);
  });
}

/** Returns when all `nt` threads have called it: spins, then sleeps, until the last one starts a new generation. */
function meet(f: FunctionBuilder, nt: Local<'i32'>): void {
  const generation = f.i32('generation', i32.atomicLoad(CONTROL.barrierGeneration));
  f.if(i32.eq(i32.add(i32.atomicAdd(CONTROL.barrierCount, 1), 1), nt), () => {
    f.atomicStore(CONTROL.barrierCount, 0);
    f.drop(i32.atomicAdd(CONTROL.barrierGeneration, 1));
    f.if(i32.atomicLoad(CONTROL.barrierSleepers), () => f.atomicNotify(CONTROL.barrierGeneration, nt));
    f.return();
  });
  const spins = f.i32('spins', i32.load(CONTROL.spin));
  f.loop((again) => {
    f.if(i32.ne(i32.atomicLoad(CONTROL.barrierGeneration), generation), () => f.return());
    f.if(spins, () => {
      spins.inc(-1);
      f.branch(again);
    });
    f.drop(i32.atomicAdd(CONTROL.barrierSleepers, 1));
    f.atomicWait32(CONTROL.barrierGeneration, generation);
    f.drop(i32.atomicSub(CONTROL.barrierSleepers, 1));
    f.branch(again);
  });
}
