/** Inputs that every layer gets of its own besides the stream: per-layer embeddings. */
import type { Activation, NormOptions } from '../../core/backend.ts';
import type { Step } from '../../core/model.ts';
import { addInto, gatherRows, linear, mulInto, norm, scaleInto, slice, unaryInto } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weights } from '../../core/weights.ts';
import { projection } from './linear.ts';

export interface SideSpec {
  readonly vocab: number;
  readonly hidden: number;
  readonly layers: number;
  /** Of the input of one layer. */
  readonly width: number;
  readonly norm: NormOptions;
}

/**
 * The inputs of all layers, one behind the other: `(norm(projection(embeddings)) + table[token]) / √2`, each part scaled by
 * the root of its width.
 */
export function sideInputs(w: Weights, a: SideSpec): (embeddings: Tensor, s: Step) => Tensor {
  const columns = a.layers * a.width;
  const table = w.matrix('embed_tokens_per_layer.weight', [a.vocab, columns]);
  const input = projection(w, [{ name: 'per_layer_model_projection', rows: columns }], a.hidden, false);
  const tableScale = Math.fround(Math.sqrt(a.width));
  const inputScale = a.hidden ** -0.5;
  return (embeddings, { batch }) => {
    const projected = scaleInto(linear(embeddings, input.weight), inputScale);
    const normed = norm(projected.reshape([-1, a.width]), a.norm).reshape(projected.shape);
    const own = scaleInto(gatherRows(table, batch.tokens, batch.rows), tableScale);
    return scaleInto(addInto(normed, own), Math.SQRT1_2);
  };
}

/** What a layer adds: `norm(projection(activation(gate(x)) * input))`. */
export function sideFeed(w: Weights, a: Omit<SideSpec, 'vocab' | 'layers'>, layer: number, activation: Activation) {
  const gate = projection(w, [{ name: 'per_layer_input_gate', rows: a.width }], a.hidden, false);
  const output = projection(w, [{ name: 'per_layer_projection', rows: a.hidden }], a.width, false);
  return (x: Tensor, side: Tensor): Tensor => {
    const gated = unaryInto(activation, linear(x, gate.weight));
    mulInto(gated, slice(side, 1, layer * a.width, (layer + 1) * a.width));
    return norm(linear(gated, output.weight), a.norm);
  };
}
