/**
 * Layers whose MLP is one of several, chosen on the device: by a prompt as a whole and then by every token of the answer, or
 * by every token alone.
 */
import type { Backend, LinearOptions } from '../backend.ts';
import { fill } from '../composed/basics.ts';
import type { PackedBatch } from '../engine/batch.ts';
import { InferenceError } from '../errors.ts';
import type { MlpMixture, MlpMixtures, MlpRoutes } from '../mixture.ts';
import type { Step } from '../model.ts';
import { gatherRows, linear, scatterRows, softmax, topk } from '../ops.ts';
import type { BatchReader } from '../runner.ts';
import type { Tensor } from '../tensor.ts';
import type { Weight } from '../weight.ts';
import type { SourceTensor } from '../weights.ts';
import type { ExpertSource } from './experts.ts';

/** `[experts, hidden]`, and a bias. */
export interface Gate {
  readonly weight: Weight;
  readonly options: LinearOptions;
}

export interface MixtureParts {
  readonly backend: Backend;
  readonly maxRows: number;
  /** Those beside the model's own MLP. */
  readonly experts: readonly ExpertSource[];
  /** A layer lies at `prefix.number.mlp`. */
  readonly prefix: string;
  readonly mlp: string;
  /** All layers when empty. */
  readonly layers: readonly number[];
  /** Experts of one token; `undefined` where sequences choose one. */
  readonly topK: number | undefined;
}

export class ExpertMixtures implements MlpMixtures, BatchReader {
  readonly #parts: MixtureParts;
  readonly #layers = new Map<string, MixedLayer>();
  readonly #rows: ChoiceRows;

  constructor(parts: MixtureParts) {
    this.#parts = parts;
    this.#rows = new ChoiceRows(parts);
  }

  /** Those the model was built with, from the first to the last. */
  get layers(): readonly MixedLayer[] {
    return [...this.#layers.values()].sort((a, b) => a.layer - b.layer);
  }

  get needsAllRows(): boolean {
    return this.#parts.topK === undefined || this.#rows.forced !== undefined;
  }

  at(path: string): MlpMixture | undefined {
    const seen = this.#layers.get(path);
    if (seen) return seen;
    const { prefix, mlp, layers, experts } = this.#parts;
    const number = path.startsWith(`${prefix}.`) ? Number.parseInt(path.slice(prefix.length + 1), 10) : Number.NaN;
    if (path !== `${prefix}.${number}.${mlp}.` || (layers.length > 0 && !layers.includes(number))) return undefined;
    const layer = new MixedLayer(number, path, experts, this.#rows);
    this.#layers.set(path, layer);
    return layer;
  }

  /** Makes every row take one expert, whatever the gates say; `undefined` lets them choose. */
  force(expert: number | undefined): void {
    this.#rows.force(expert);
  }

  begin(batch: PackedBatch): void {
    this.#rows.begin(batch);
  }

  dispose(): void {
    for (const layer of this.#layers.values()) layer.dispose();
    this.#rows.dispose();
  }
}

export class MixedLayer implements MlpMixture {
  readonly layer: number;
  readonly path: string;
  readonly count: number;
  /** Rows of what the gate reads go here, by position, while it is set. */
  probe: Tensor | undefined;
  readonly #experts: readonly ExpertSource[];
  readonly #rows: ChoiceRows;
  #gate: Gate | undefined;

  constructor(layer: number, path: string, experts: readonly ExpertSource[], rows: ChoiceRows) {
    this.layer = layer;
    this.path = path;
    this.count = experts.length + 1;
    this.#experts = experts;
    this.#rows = rows;
  }

  set gate(gate: Gate) {
    this.#gate = gate;
  }

  tensorOf(expert: number, own: SourceTensor, name: string): SourceTensor {
    return this.#experts[expert - 1]!.tensorOf(this.path, name, own);
  }

  routes(x: Tensor, s: Step): MlpRoutes {
    if (this.probe) scatterRows(this.probe, x, s.batch.positions);
    const forced = this.#rows.forcedFor(x.rowCount);
    if (forced) return { experts: forced };
    if (!this.#gate) throw new InferenceError(`anymoe: layer ${this.layer}: expected a gate, got none`);
    return this.#rows.choose(linear(x, this.#gate.weight, this.#gate.options));
  }

  dispose(): void {
    this.#gate?.weight.dispose();
    this.#gate?.options.bias?.dispose();
  }
}

/** Which rows choose together. */
class ChoiceRows {
  readonly #backend: Backend;
  readonly #maxRows: number;
  readonly #topK: number | undefined;
  /** Number of a row's group: the first row of its prompt, else its own. */
  readonly #groups: Tensor;
  readonly #host: Int32Array;
  /** Some rows of the step choose together. */
  #grouped = false;
  readonly #forcedIds: Tensor;
  forced: number | undefined;

  constructor({ backend, maxRows, topK }: MixtureParts) {
    this.#backend = backend;
    this.#maxRows = maxRows;
    this.#topK = topK;
    this.#groups = backend.persistent([maxRows], 'i32');
    this.#host = new Int32Array(maxRows);
    this.#forcedIds = backend.persistent([maxRows], 'i32');
  }

  force(expert: number | undefined): void {
    this.forced = expert;
    if (expert === undefined) return;
    this.#backend.write(this.#forcedIds, new Int32Array(this.#maxRows).fill(expert));
  }

  forcedFor(rows: number): Tensor | undefined {
    return this.forced === undefined ? undefined : this.#forcedIds.rows(0, rows).reshape([rows, 1]);
  }

  begin(batch: PackedBatch): void {
    this.#grouped = false;
    if (this.#topK !== undefined) return;
    for (let s = 0; s < batch.sequences; s++) {
      const first = batch.seqStart[s]!;
      for (let r = first; r < batch.seqStart[s + 1]!; r++) {
        const group = batch.positions[r]! < batch.promptLengths[s]! ? first : r;
        this.#host[r] = group;
        this.#grouped ||= group !== r;
      }
    }
    if (this.#grouped) this.#backend.write(this.#groups, this.#host, batch.rows);
  }

  choose(logits: Tensor): MlpRoutes {
    const { backend } = logits;
    if (this.#topK !== undefined) {
      const { values, indices } = topk(logits, this.#topK);
      return { experts: indices, weights: this.#topK > 1 ? softmax(values) : undefined };
    }
    if (!this.#grouped) return { experts: topk(logits, 1).indices };
    // The largest mean is the largest sum.
    const sums = fill(backend, logits.shape, 0);
    scatterRows(sums, softmax(logits), this.#groups, true);
    return { experts: topk(gatherRows(sums, this.#groups, logits.rowCount), 1).indices };
  }

  dispose(): void {
    this.#groups.dispose();
    this.#forcedIds.dispose();
  }
}
