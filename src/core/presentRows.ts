/** Rows of a weight as the back-end holds them. */
import type { Backend } from './backend.ts';
import type { BetweenSteps } from './engine/types.ts';
import { gatherRows } from './ops.ts';
import type { Tensor } from './tensor.ts';
import type { Weight } from './weight.ts';

/** Elements that are brought to the host at a time. */
const MAX_ELEMENTS = 1 << 21;

/** Rows `[first, first + count)` as F32, into `target`; each part of them is taken in `between`. */
export async function presentRows(
  backend: Backend,
  weight: Weight,
  first: number,
  count: number,
  target: Uint8Array,
  between: BetweenSteps,
): Promise<void> {
  const width = weight.shape[1];
  const step = Math.max(1, Math.floor(MAX_ELEMENTS / width));
  for (let at = 0; at < count; at += step) {
    const n = Math.min(step, count - at);
    const rows = await between(() => read(backend, weight, first + at, n));
    target.set(new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength), 4 * at * width);
  }
}

async function read(backend: Backend, weight: Weight, first: number, count: number): Promise<Float32Array> {
  const ids = backend.upload(
    Int32Array.from({ length: count }, (_, i) => first + i),
    [count],
  );
  let rows: Tensor | undefined;
  try {
    rows = gatherRows(weight, ids);
    return await rows.toFloat32Array();
  } finally {
    ids.dispose();
    rows?.dispose();
  }
}
