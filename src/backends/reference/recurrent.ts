import type { Batch, CausalConvOptions, GatedDeltaOptions, SsmScanOptions } from '../../core/backend.ts';
import type { Tensor } from '../../core/tensor.ts';
import { UNARY } from './functions.ts';
import { floats } from './memory.ts';

/** Visits every sequence with rows: its state in double precision, rounded to the tensor's type only when it ends. */
function forSequences(state: Tensor, batch: Batch, visit: (s: Float64Array, first: number, end: number) => void): void {
  const { seqStart, kvLen, stateSlots } = batch.host;
  const all = floats(state);
  const size = state.size / state.shape[0]!;
  for (let q = 0; q < batch.sequences; q++) {
    const first = seqStart[q]!;
    const end = seqStart[q + 1]!;
    if (first === end) continue;
    const at = stateSlots[q]! * size;
    const own = new Float64Array(size);
    if (kvLen[q]! > end - first) own.set(all.subarray(at, at + size));
    visit(own, first, end);
    all.set(own, at);
  }
}

const softplus = (x: number) => UNARY.softplus(x, 0, 0);
const sigmoid = (x: number) => UNARY.sigmoid(x, 0, 0);

export function causalConv(
  out: Tensor,
  x: Tensor,
  w: Tensor,
  state: Tensor,
  batch: Batch,
  { start, bias, silu }: CausalConvOptions,
): void {
  const [kernel, channels] = w.shape as [number, number];
  const [from, to, taps] = [floats(x), floats(out), floats(w)];
  const offset = bias && floats(bias);
  forSequences(state, batch, (tail, first, end) => {
    /** Input at time `t` counted from the first row; the tail has those before it. */
    const input = (t: number, c: number) =>
      t < 0 ? tail[(t + kernel - 1) * channels + c]! : from[(first + t) * x.width + start + c]!;
    for (let c = 0; c < channels; c++) {
      for (let t = 0; t < end - first; t++) {
        let sum = offset ? offset[c]! : 0;
        for (let j = 0; j < kernel; j++) sum += taps[j * channels + c]! * input(t - kernel + 1 + j, c);
        to[(first + t) * channels + c] = silu ? sum * sigmoid(sum) : sum;
      }
      // Rising: an entry is read before it is overwritten.
      for (let j = 0; j < kernel - 1; j++) tail[j * channels + c] = input(end - first - kernel + 1 + j, c);
    }
  });
}

export function ssmScan(out: Tensor, x: Tensor, dt: Tensor, state: Tensor, batch: Batch, o: SsmScanOptions): void {
  const { heads, headDim, groups, stateDim, minStep, maxStep } = o;
  const [from, to, steps] = [floats(x), floats(out), floats(dt)];
  const [decay, bias, skip] = [floats(o.decay), floats(o.bias), floats(o.skip)];
  forSequences(state, batch, (s, first, end) => {
    for (let r = first; r < end; r++) {
      for (let h = 0; h < heads; h++) {
        const step = Math.min(maxStep, Math.max(minStep, softplus(steps[r * dt.width + o.start + h]! + bias[h]!)));
        const fade = Math.exp(step * decay[h]!);
        const value = r * x.width + h * headDim;
        const key = r * x.width + heads * headDim + Math.floor((h * groups) / heads) * stateDim;
        const query = key + groups * stateDim;
        for (let d = 0; d < headDim; d++) {
          let sum = skip[h]! * from[value + d]!;
          for (let n = 0; n < stateDim; n++) {
            const at = (h * stateDim + n) * headDim + d;
            s[at] = fade * s[at]! + from[key + n]! * step * from[value + d]!;
            sum += s[at]! * from[query + n]!;
          }
          to[(r * heads + h) * headDim + d] = sum;
        }
      }
    }
  });
}

export function gatedDelta(
  out: Tensor,
  x: Tensor,
  gates: Tensor,
  state: Tensor,
  batch: Batch,
  o: GatedDeltaOptions,
): void {
  const { keyHeads, valueHeads: heads, keyDim, valueDim, scale, eps, cyclic } = o;
  const [from, to, gate] = [floats(x), floats(out), floats(gates)];
  const [decay, bias] = [floats(o.decay), floats(o.bias)];
  const inverseLength = (at: number) => {
    let power = eps;
    for (let n = 0; n < keyDim; n++) power += from[at + n]! ** 2;
    return 1 / Math.sqrt(power);
  };
  forSequences(state, batch, (s, first, end) => {
    for (let r = first; r < end; r++) {
      for (let h = 0; h < heads; h++) {
        const keyHead = cyclic ? h % keyHeads : Math.floor((h * keyHeads) / heads);
        const query = r * x.width + keyHead * keyDim;
        const key = query + keyHeads * keyDim;
        const value = r * x.width + 2 * keyHeads * keyDim + h * valueDim;
        const at = r * gates.width + o.start + h;
        const strength = sigmoid(gate[at]!);
        const fade = Math.exp(decay[h]! * softplus(gate[at + heads]! + bias[h]!));
        const keyScale = inverseLength(key);
        const queryScale = inverseLength(query) * scale;
        for (let d = 0; d < valueDim; d++) {
          const cell = (n: number) => (h * keyDim + n) * valueDim + d;
          let known = 0;
          for (let n = 0; n < keyDim; n++) {
            s[cell(n)]! *= fade;
            known += s[cell(n)]! * from[key + n]! * keyScale;
          }
          const change = strength * (from[value + d]! - known);
          let sum = 0;
          for (let n = 0; n < keyDim; n++) {
            s[cell(n)]! += from[key + n]! * keyScale * change;
            sum += s[cell(n)]! * from[query + n]! * queryScale;
          }
          to[(r * heads + h) * valueDim + d] = sum;
        }
      }
    }
  });
}
