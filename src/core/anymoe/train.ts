/** Trains the gate of one layer, in double precision, on what it reads of each prompt. */
import { CounterRng } from '../engine/sampling/rng.ts';

/** `inputs`: `[tokens, hidden]`; `expert`: the one it should choose. */
export interface GateExample {
  readonly inputs: Float32Array;
  readonly expert: number;
}

export interface GateSettings {
  readonly hidden: number;
  readonly experts: number;
  readonly lr: number;
  readonly epochs: number;
  readonly batchSize: number;
  /** Numbers of the examples in the order of an epoch. */
  readonly order: (epoch: number) => ArrayLike<number>;
  /** Called before every epoch; may throw. */
  readonly onEpoch?: ((epoch: number) => Promise<void> | void) | undefined;
}

export interface TrainedGate {
  /** `[experts, hidden]` */
  readonly weight: Float64Array;
  readonly bias: Float64Array;
  /** Of every step. */
  readonly losses: readonly number[];
}

const BETA1 = 0.9;
const BETA2 = 0.999;
const EPS = 1e-8;

/**
 * AdamW without decay on the cross-entropy of the mean over the tokens of `softmax(x Wᵀ + b)`, taken as logits. Begins with
 * zeros, so the result depends on the order of the examples only.
 */
export async function trainGate(examples: readonly GateExample[], settings: GateSettings): Promise<TrainedGate> {
  const { hidden, experts, lr, epochs, batchSize } = settings;
  // The bias stands behind the weight, so that one optimizer serves both.
  const size = experts * hidden;
  const values = new Float64Array(size + experts);
  const grads = new Float64Array(values.length);
  const first = new Float64Array(values.length);
  const second = new Float64Array(values.length);
  const losses: number[] = [];
  for (let epoch = 0; epoch < epochs; epoch++) {
    await settings.onEpoch?.(epoch);
    const order = settings.order(epoch);
    for (let at = 0; at < order.length; at += batchSize) {
      const count = Math.min(batchSize, order.length - at);
      grads.fill(0);
      let loss = 0;
      for (let i = at; i < at + count; i++)
        loss += accumulate(examples[order[i]!]!, values, grads, { hidden, experts, count });
      losses.push(loss / count);
      const scale1 = 1 - BETA1 ** losses.length;
      const scale2 = 1 - BETA2 ** losses.length;
      for (let j = 0; j < values.length; j++) {
        const g = grads[j]!;
        first[j] = BETA1 * first[j]! + (1 - BETA1) * g;
        second[j] = BETA2 * second[j]! + (1 - BETA2) * g * g;
        values[j]! -= (lr * (first[j]! / scale1)) / (Math.sqrt(second[j]! / scale2) + EPS);
      }
    }
  }
  return { weight: values.slice(0, size), bias: values.slice(size), losses };
}

/** The numbers below `count` in an order that depends on seed and epoch only. */
export function shuffled(count: number, seed: number, epoch: number): Int32Array {
  const rng = new CounterRng(seed, epoch);
  const order = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(rng.uniform(i) * (i + 1));
    const held = order[i]!;
    order[i] = order[j]!;
    order[j] = held;
  }
  return order;
}

/** Adds the gradient of one example of a batch of `count`; returns its loss. */
function accumulate(
  { inputs, expert }: GateExample,
  values: Float64Array,
  grads: Float64Array,
  { hidden, experts, count }: { readonly hidden: number; readonly experts: number; readonly count: number },
): number {
  const tokens = inputs.length / hidden;
  const probs = new Float64Array(tokens * experts);
  const mean = new Float64Array(experts);
  for (let t = 0; t < tokens; t++) {
    const row = probs.subarray(t * experts, (t + 1) * experts);
    for (let e = 0; e < experts; e++) {
      let sum = values[experts * hidden + e]!;
      for (let i = 0; i < hidden; i++) sum += values[e * hidden + i]! * inputs[t * hidden + i]!;
      row[e] = sum;
    }
    softmax(row);
    for (let e = 0; e < experts; e++) mean[e] = mean[e]! + row[e]! / tokens;
  }
  const loss = softmax(mean, expert);
  for (let e = 0; e < experts; e++) mean[e] = (mean[e]! - (e === expert ? 1 : 0)) / (count * tokens);
  for (let t = 0; t < tokens; t++) {
    const row = probs.subarray(t * experts, (t + 1) * experts);
    let dot = 0;
    for (let e = 0; e < experts; e++) dot += mean[e]! * row[e]!;
    for (let e = 0; e < experts; e++) {
      const g = row[e]! * (mean[e]! - dot);
      grads[experts * hidden + e]! += g;
      for (let i = 0; i < hidden; i++) grads[e * hidden + i]! += g * inputs[t * hidden + i]!;
    }
  }
  return loss;
}

/** In place; returns the cross-entropy of `target`. */
function softmax(x: Float64Array, target = 0): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const v of x) most = Math.max(most, v);
  const logit = x[target]! - most;
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i]! - most);
  for (let i = 0; i < x.length; i++) x[i] = x[i]! / sum;
  return Math.log(sum) - logit;
}
