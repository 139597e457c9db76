/** What core needs from models. Types only. */
import type { Backend, Batch, KvCache, KvSpec, StateSpec } from './backend.ts';
import type { Tensor } from './tensor.ts';
import type { Weights } from './weights.ts';

/** Everything one forward pass may look at besides the residual stream. */
export interface Step {
  readonly backend: Backend;
  readonly batch: Batch;
  /** By the index that `Weights.declareCache` gave out. */
  readonly caches: readonly KvCache[];
  /** `[slots, …shape]`, by the index that `Weights.declareState` gave out. */
  readonly states: readonly Tensor[];
  /** `[rows, width]` cosines and sines (or another `RowTable`), by the index that `Weights.declareRope` gave out. */
  readonly cosSin: readonly Tensor[];
  /** Where the final rows are kept, for a predictor to go on from. */
  readonly kept?: KeptRows | undefined;
  /** Names intermediates, to find the layer where a result goes wrong. */
  readonly trace?: ((name: string, t: Tensor) => void) | undefined;
}

/** Final rows of a pass, in its order, on the device until the next pass. */
export interface KeptRows {
  /** `[maxRows, hidden]`; as many are filled as the pass had. */
  readonly rows: Tensor;
  /** The numbers 0, 1, 2, … of all rows. */
  readonly order: Tensor;
}

/**
 * Reads the normalised stream and returns what to add to the residual one. With `residual` it adds the result there
 * itself (one op instead of two) and returns `residual`.
 */
export type Mixer = (x: Tensor, s: Step, residual?: Tensor) => Tensor;

/**
 * Updates the residual stream in place, in two parts: `mix` lets rows see each other, `feed` then works on every row
 * alone. So the last layer feeds only the rows whose logits are wanted.
 */
export interface Layer {
  /** What `mix` and `feed` read of the stream as it was before both. */
  readonly before?: ((x: Tensor) => Tensor) | undefined;
  readonly mix: (x: Tensor, s: Step, before?: Tensor) => void;
  /** `side` and `before`: the rows of `DecoderParts.side`, and of what `before` gave, that belong to those of `x`. */
  readonly feed: (x: Tensor, s: Step, side?: Tensor, before?: Tensor) => void;
}

/** Numbers that follow from a row's position, computed on the host once per step and row. */
export interface RowTable {
  readonly width: number;
  /** Two of one key are the same table. */
  readonly key: string;
  /**
   * Sequences that grow beyond this length rotate differently from their first position on: what is cached of them, or
   * shared with shorter ones, has to be computed again.
   */
  readonly switchLength?: number | undefined;
  /**
   * Prompts longer than this rotate differently for each length. What is cached stays as it was rotated, as in the
   * reference implementation, so sequences of other lengths cannot share it.
   */
  readonly growsBeyond?: number | undefined;
  /** Positions it serves, where that is more than the model was trained on. */
  readonly maxPositions?: number | undefined;
  /** Writes `width` numbers at `out[at]`, as in a sequence of `length` tokens. */
  fill(out: Float32Array, at: number, position: number, length: number): void;
}

/** Rotary position embedding: `rotaryDim / 2` cosines, then as many sines. */
export interface Rope extends RowTable {
  readonly rotaryDim: number;
}

/** A causal language model, ready to run. */
export interface Decoder {
  readonly vocab: number;
  readonly hidden: number;
  /** Positions the model was made for. */
  readonly maxPositions: number;
  readonly caches: readonly KvSpec[];
  readonly states: readonly StateSpec[];
  readonly ropes: readonly RowTable[];
  /** What the output matrix reads, `[batch.rows, hidden]`, of all rows; call inside `backend.scope`. */
  features(step: Step): Tensor;
  /** Guesses further tokens, where one was asked for and the checkpoint has it. */
  readonly predictor?: Predictor | undefined;
  /** Logits `[batch.logitCount, vocab]` of the wanted rows; call inside `backend.scope`. Fills `step.kept`, with all rows. */
  forward(step: Step): Tensor;
}

/** A head inside a checkpoint that guesses the token behind the next one from what the decoder made of the last. */
export interface Predictor {
  /** `Decoder.caches` from this one on are its own. */
  readonly firstCache: number;
  /**
   * Logits `[batch.logitCount, vocab]` of the wanted rows. A row has the position of a final row of the decoder, which
   * `previous` `[batch.rows, hidden]` holds, and the token behind it. Fills `step.kept` with the wanted rows.
   */
  forward(step: Step, previous: Tensor): Tensor;
}

/** Parts of a checkpoint that are built only when asked for. */
export interface ExtraParts {
  readonly predictor?: boolean | undefined;
  /** The predictor reads a second copy of an output matrix that it shares, under a name of its own. */
  readonly draftHead?: boolean | undefined;
}

/** An architecture: names it goes by, its configuration, and how weights become a decoder. */
export interface Arch<C = unknown> {
  /** `architectures` entries of config.json. */
  readonly hf: readonly string[];
  /** `general.architecture` values of GGUF files. */
  readonly gguf: readonly string[];
  /** Parses the configuration; throws `ConfigError` naming the path of a bad value. */
  config(raw: unknown): C;
  build(w: Weights, config: C, extras?: ExtraParts): Decoder;
}
