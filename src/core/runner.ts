/** Runs a decoder on packed rows: owns the caches and the per-step numbers on the device. */
import type { Backend, Batch, KvCache } from './backend.ts';
import type { PackedBatch } from './engine/batch.ts';
import type { ModelRunner, PredictorRunner, TopLogits, TopRunner } from './engine/types.ts';
import { InferenceError, ShapeError } from './errors.ts';
import type { Decoder, KeptRows, Step } from './model.ts';
import { copyKvBlock, copyState, createKvCache, gatherRows } from './ops.ts';
import type { Tensor } from './tensor.ts';
import { MAX_TOP, TopPicks } from './topPicks.ts';

export interface RunnerOptions {
  /** Key/value blocks per layer, shared by all sequences. */
  readonly blocks: number;
  /** Positions per block. */
  readonly blockSize: number;
  /** Most rows of one step. */
  readonly maxRows: number;
  readonly maxSequences: number;
  /** Most blocks of one sequence. */
  readonly maxBlocks: number;
  /** Sequences, and snapshots of them, whose recurrent states are kept; for models that have such. */
  readonly stateSlots?: number | undefined;
  /** Blocks for guesses in the cache of the decoder's predictor; none when absent. */
  readonly extraBlocks?: number | undefined;
  /** In whose turn its steps run on a back-end that others use too: in its own, when absent. */
  readonly party?: object | undefined;
}

/** What a predictor works with between two passes of its decoder. */
interface Prediction {
  /** Final rows of the decoder, and of the predictor. */
  readonly kept: KeptRows;
  readonly own: KeptRows;
  /** For each row of a pass, which of these it goes on from. */
  readonly sources: Tensor;
  /** The final rows of the pass that is being prepared. */
  from: KeptRows;
  /** Enqueues the pass. */
  readonly encode: () => void;
}

/** Told of every batch before it runs, so that it can put what it knows of the rows on the device. */
export interface BatchReader {
  begin(batch: PackedBatch): void;
}

export class DecoderRunner implements ModelRunner {
  readonly decoder: Decoder;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly blockSize: number;
  readonly blocks: number;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly maxLogitRows: number;
  readonly stateSlots: number;
  readonly recomputeAt: readonly number[];
  readonly growsBeyond: number | undefined;
  readonly options: RunnerOptions;
  readonly top: TopRunner | undefined;
  readonly #picks: TopPicks | undefined;
  readonly #backend: Backend;
  readonly #caches: KvCache[] = [];
  readonly #states: Tensor[] = [];
  readonly #batch: Batch;
  readonly #cosSin: Tensor[] = [];
  readonly #angles: Float32Array[] = [];
  readonly #step: Step;
  readonly #reader: BatchReader | undefined;
  readonly #party: object;
  readonly #encode: () => void;
  readonly predictor: PredictorRunner | undefined;
  readonly #prediction: Prediction | undefined;
  #logits: Tensor | undefined;

  constructor(backend: Backend, decoder: Decoder, options: RunnerOptions, reader?: BatchReader) {
    this.#reader = reader;
    this.#party = options.party ?? this;
    this.decoder = decoder;
    this.options = options;
    this.#backend = backend;
    const { maxRows, maxSequences, maxBlocks } = options;
    this.vocabSize = decoder.vocab;
    this.contextLength = Math.min(decoder.maxPositions, maxBlocks * options.blockSize);
    this.blockSize = options.blockSize;
    this.blocks = options.blocks;
    this.maxRows = this.maxLogitRows = maxRows;
    this.maxSequences = maxSequences;
    this.recomputeAt = decoder.ropes.flatMap((rope) => rope.switchLength ?? []);
    const growing = decoder.ropes.flatMap((rope) => rope.growsBeyond ?? []);
    this.growsBeyond = growing.length > 0 ? Math.min(...growing) : undefined;
    const { predictor } = decoder;
    const { extraBlocks = 0 } = options;
    for (const [i, spec] of decoder.caches.entries()) {
      const blocks = options.blocks + (predictor && i >= predictor.firstCache ? extraBlocks : 0);
      this.#caches.push(createKvCache(backend, spec, blocks, options.blockSize));
    }
    this.stateSlots = decoder.states.length > 0 ? (options.stateSlots ?? maxSequences) : 0;
    for (const { shape } of decoder.states) this.#states.push(backend.persistent([this.stateSlots, ...shape], 'f32'));
    const numbers = (n: number) => backend.persistent([n], 'i32');
    const host = (n: number) => new Int32Array(n);
    this.#batch = {
      rows: 0,
      sequences: 0,
      blocksPerSequence: maxBlocks,
      logitCount: 0,
      tokens: numbers(maxRows),
      positions: numbers(maxRows),
      slots: numbers(maxRows),
      seqStart: numbers(maxSequences + 1),
      kvLen: numbers(maxSequences),
      blockTable: numbers(maxSequences * maxBlocks),
      stateSlots: numbers(maxSequences),
      logitRows: numbers(maxRows),
      host: {
        tokens: host(maxRows),
        positions: host(maxRows),
        slots: host(maxRows),
        seqStart: host(maxSequences + 1),
        kvLen: host(maxSequences),
        blockTable: host(maxSequences * maxBlocks),
        stateSlots: host(maxSequences),
        logitRows: host(maxRows),
        baseLen: host(maxSequences),
      },
    };
    for (const rope of decoder.ropes) {
      this.#cosSin.push(backend.persistent([maxRows, rope.width], 'f32'));
      this.#angles.push(new Float32Array(maxRows * rope.width));
    }
    const kept = predictor && this.#keep(maxRows);
    this.#step = {
      backend,
      batch: this.#batch,
      caches: this.#caches,
      states: this.#states,
      cosSin: this.#cosSin,
      kept,
    };
    if (predictor && kept) {
      const own = this.#keep(maxSequences);
      const sources = numbers(maxRows);
      const step = { ...this.#step, kept: own };
      const prediction: Prediction = {
        ...{ kept, own, sources, from: kept },
        encode: () => {
          this.#logits = predictor.forward(step, gatherRows(prediction.from.rows, sources, this.#batch.rows));
        },
      };
      this.#prediction = prediction;
      this.predictor = { extraBlocks, predict: (rows, ids, own) => this.#predict(prediction, rows, ids, own) };
    }
    if (backend.remote) {
      const picks = new TopPicks(backend, this.maxLogitRows);
      this.#picks = picks;
      this.top = {
        maxK: Math.min(MAX_TOP, this.vocabSize),
        forward: (rows, k) => this.#forwardTop(picks, rows, k),
      };
    }
    this.#encode = () => {
      this.#logits = this.decoder.forward(this.#step);
    };
  }

  /** Bytes of all key/value caches and states. */
  get cacheBytes(): number {
    const states = this.#states.reduce((n, t) => n + t.storage.bytes, 0);
    return this.#caches.reduce((n, c) => n + c.bytes, states);
  }

  /**
   * Logits `[logitCount, vocab]` of the wanted rows. The array may be a view of back-end memory, valid until the next
   * call; where another runner shares the back-end, in the current turn of the event loop. One await, unless steps of that
   * runner come first; allocates nothing once the shapes have been seen.
   */
  async forward(rows: PackedBatch): Promise<Float32Array> {
    const turn = this.#backend.turns.begin(this.#party);
    if (turn !== undefined) await turn;
    try {
      return (await this.#backend.view(this.#enqueue(rows))) as Float32Array;
    } finally {
      this.#backend.turns.end();
    }
  }

  /** Whether steps of another runner on the same back-end run or wait. */
  get contended(): boolean {
    return this.#backend.turns.contended(this.#party);
  }

  #enqueue(rows: PackedBatch): Tensor {
    this.#load(rows);
    if (rows.follows) this.#picks?.takeTokens(this.#batch.tokens, rows.rows);
    for (let i = 0; i < rows.copyCount; i++) {
      for (const cache of this.#caches) copyKvBlock(this.#backend, cache, rows.copies[2 * i]!, rows.copies[2 * i + 1]!);
    }
    for (let i = 0; i < rows.stateCopyCount; i++) {
      for (const state of this.#states) copyState(state, rows.stateCopies[2 * i]!, rows.stateCopies[2 * i + 1]!);
    }
    return this.#encoded(this.#encode);
  }

  #encoded(encode: () => void): Tensor {
    this.#backend.scope(encode);
    const logits = this.#logits;
    if (!logits) throw new InferenceError('forward: the decoder returned no logits');
    return logits;
  }

  async #forwardTop(picks: TopPicks, rows: PackedBatch, k: number): Promise<TopLogits> {
    const turn = this.#backend.turns.begin(this.#party);
    if (turn !== undefined) await turn;
    try {
      return await picks.read(picks.pick(this.#enqueue(rows), k), k);
    } finally {
      this.#backend.turns.end();
    }
  }

  #keep(rows: number): KeptRows {
    const order = this.#backend.persistent([rows], 'i32');
    this.#backend.write(
      order,
      Int32Array.from({ length: rows }, (_, i) => i),
    );
    return { rows: this.#backend.persistent([rows, this.decoder.hidden], 'f32'), order };
  }

  async #predict(
    prediction: Prediction,
    rows: PackedBatch,
    sources: Int32Array,
    own: boolean,
  ): Promise<Float32Array | TopLogits> {
    const turn = this.#backend.turns.begin(this.#party);
    if (turn !== undefined) await turn;
    try {
      this.#load(rows);
      this.#backend.write(prediction.sources, sources, rows.rows);
      prediction.from = own ? prediction.own : prediction.kept;
      const logits = this.#encoded(prediction.encode);
      if (this.#picks && rows.logitCount > 0) return await this.#picks.read(this.#picks.pick(logits, 1), 1);
      return (await this.#backend.view(logits)) as Float32Array;
    } finally {
      this.#backend.turns.end();
    }
  }

  /** Returns the caches and per-step tensors; the decoder's weights stay. */
  dispose(): void {
    this.#picks?.dispose();
    for (const c of this.#caches) c.dispose();
    for (const t of [...this.#states, ...this.#cosSin]) t.dispose();
    if (this.#prediction) {
      const { kept, own, sources } = this.#prediction;
      for (const t of [kept.rows, kept.order, own.rows, own.order, sources]) t.dispose();
    }
    const b = this.#batch;
    for (const t of [b.tokens, b.positions, b.slots, b.seqStart, b.kvLen, b.blockTable, b.stateSlots, b.logitRows]) {
      t.dispose();
    }
    this.#caches.length = this.#states.length = this.#cosSin.length = 0;
  }

  #load(rows: PackedBatch): void {
    const { maxRows, maxSequences, maxBlocks } = this.options;
    if (rows.rows < 1 || rows.rows > maxRows || rows.sequences < 1 || rows.sequences > maxSequences) {
      throw new ShapeError(
        `forward: expected 1..${maxRows} rows of 1..${maxSequences} sequences, got ${rows.rows} of ${rows.sequences}`,
      );
    }
    if (rows.blocksPerSequence > maxBlocks) {
      throw new ShapeError(`forward: expected at most ${maxBlocks} blocks a sequence, got ${rows.blocksPerSequence}`);
    }
    for (let r = 0; r < rows.rows && !rows.follows; r++) {
      const id = rows.tokens[r]!;
      if (id < 0 || id >= this.vocabSize) {
        throw new InferenceError(`forward: expected token ids below ${this.vocabSize}, got ${id}`);
      }
    }
    const b = this.#batch;
    const h = b.host;
    b.rows = rows.rows;
    b.sequences = rows.sequences;
    b.blocksPerSequence = rows.blocksPerSequence;
    b.logitCount = rows.logitCount;
    copy(h.tokens, rows.tokens, rows.rows);
    copy(h.positions, rows.positions, rows.rows);
    copy(h.slots, rows.slots, rows.rows);
    copy(h.seqStart, rows.seqStart, rows.sequences + 1);
    copy(h.kvLen, rows.kvLen, rows.sequences);
    copy(h.baseLen, rows.baseLen, rows.sequences);
    copy(h.blockTable, rows.blockTable, rows.sequences * rows.blocksPerSequence);
    copy(h.stateSlots, rows.stateSlots, rows.sequences);
    copy(h.logitRows, rows.logitRows, rows.logitCount);
    const backend = this.#backend;
    if (!rows.follows) backend.write(b.tokens, h.tokens, rows.rows);
    backend.write(b.positions, h.positions, rows.rows);
    backend.write(b.slots, h.slots, rows.rows);
    backend.write(b.seqStart, h.seqStart, rows.sequences + 1);
    backend.write(b.kvLen, h.kvLen, rows.sequences);
    backend.write(b.blockTable, h.blockTable, rows.sequences * rows.blocksPerSequence);
    if (this.#states.length > 0) backend.write(b.stateSlots, h.stateSlots, rows.sequences);
    backend.write(b.logitRows, h.logitRows, rows.logitCount);
    this.#rotate(rows.rows, rows.sequences);
    this.#reader?.begin(rows);
  }

  #rotate(rows: number, sequences: number): void {
    const { positions, seqStart, baseLen } = this.#batch.host;
    for (let i = 0; i < this.#angles.length; i++) {
      const rope = this.decoder.ropes[i]!;
      const out = this.#angles[i]!;
      for (let s = 0; s < sequences; s++) {
        for (let r = seqStart[s]!; r < seqStart[s + 1]!; r++) {
          const position = positions[r]!;
          rope.fill(out, r * rope.width, position, Math.max(baseLen[s]!, position + 1));
        }
      }
      this.#backend.write(this.#cosSin[i]!, out, rows * rope.width);
    }
  }
}

function copy(to: Int32Array, from: Int32Array, n: number): void {
  for (let i = 0; i < n; i++) to[i] = from[i]!;
}
