/** Where the rows and the state of a sequence are, for kernels over the sequences of a step. */
import type { Batch } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import { lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import type { Recorder } from '../recorder.ts';
import { ITEM, LANES } from '../wgsl.ts';

/** Operands of a kernel that calls `rows_of(s)`, and the function: first row, row behind the last, slot, whether it goes on. */
export interface SequenceAccess {
  readonly reads: KernelSource['reads'];
  readonly code: string;
}

/** From the tensors of the batch as they are. */
export const DIRECT: SequenceAccess = {
  reads: [
    ['seq_start', 'i32'],
    ['kv_len', 'i32'],
    ['slots', 'i32'],
  ],
  code: `
fn rows_of(s: u32) -> vec4<u32> {
  let first = seq_start(s);
  let end = seq_start(s + 1u);
  return vec4<u32>(u32(first), u32(end), u32(slots(s)), select(0u, 1u, kv_len(s) > end - first));
}`,
};

/** From one tensor, for kernels that would take more operands than the device binds. */
export const PLANNED: SequenceAccess = {
  reads: [['plan', 'vec4<u32>']],
  code: 'fn rows_of(s: u32) -> vec4<u32> { return plan(s); }',
};

export function bindBatch(recorder: Recorder, batch: Batch): Recorder {
  return recorder.bind(batch.seqStart).bind(batch.kvLen).bind(batch.stateSlots);
}

const planSource = (): KernelSource => ({
  label: 'sequences of states',
  reads: DIRECT.reads,
  writes: [['plan', 'vec4<u32>']],
  numbers: [['sequences', 'u32']],
  workgroup: [LANES, 1, 1],
  declarations: DIRECT.code,
  body: `${ITEM}
if (item < p.sequences) { set_plan(item, rows_of(item)); }`,
});

/** Makes the tensor that `PLANNED` kernels read. */
export function sequencePlans(host: OpHost): (batch: Batch) => Tensor {
  const planning = lazy(host, planSource);
  return (batch) => {
    const plan = host.integers(4 * batch.sequences);
    bindBatch(host.recorder.start(planning()), batch)
      .bind(plan)
      .u(batch.sequences)
      .dispatchItems(batch.sequences, LANES);
    return plan;
  };
}
