import { addInterpreter, NOP } from './interpreter.ts';
import { defineKernel, type Kernel, type Variant } from './kernel.ts';
import { transferKernel } from './transfer.ts';
import type { ConstantPool } from './wasm/constants.ts';
import { ModuleBuilder } from './wasm/module.ts';

/** Entries of the table through which commands name their kernels. */
export const TABLE_SIZE = 4096;

/** Does nothing: carries flags. */
const nop = defineKernel({ name: 'nop', fields: {}, emit() {}, twin() {} });

const COMMAND_PARAMETERS = { command: 'i32', tid: 'i32', nt: 'i32' } as const;

/**
 * The binary of a module holding `kernels`. Its instances put the kernels into the table `env.table` from
 * `env.tableBase` on.
 */
export function bundle(kernels: readonly Kernel[], variant: Variant, shared: boolean, pool: ConstantPool) {
  const m = new ModuleBuilder({ shared, pool });
  m.importTable(1);
  m.fillTable('tableBase', addKernels(m, kernels, variant));
  return m.finish();
}

/** The binary of the module with the interpreter: it owns the table, which begins with `NOP` and `TRANSFER`. */
export function interpreterModule(shared: boolean) {
  const m = new ModuleBuilder({ shared });
  const signal = m.importFunction('signal', []);
  const copy = m.importFunction('copy', ['i32', 'i32', 'i32', 'i32', 'i32']);
  const type = m.signature('kernel', Object.values(COMMAND_PARAMETERS));
  m.defineTable(TABLE_SIZE);
  m.fillTable(NOP, addKernels(m, [nop, transferKernel(copy)] as readonly Kernel[], { fma: false, dot: 'simd' }));
  addInterpreter(m, type, { signal });
  return m.finish();
}

function addKernels(m: ModuleBuilder, kernels: readonly Kernel[], variant: Variant) {
  const type = m.signature('kernel', Object.values(COMMAND_PARAMETERS));
  return kernels.map((kernel) =>
    m.function(kernel.name, COMMAND_PARAMETERS, (f, p) => kernel.emit(f, p.command, p.tid, p.nt, variant, type)),
  );
}
