/** Loads a stored model on a back-end and runs packed batches of its prompts. */
import { existsSync, readFileSync } from 'node:fs';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend, KvDType } from '../../src/core/backend.ts';
import type { PackedBatch } from '../../src/core/engine/batch.ts';
import { readGguf } from '../../src/core/io/gguf.ts';
import { ggufModel } from '../../src/core/io/ggufModel.ts';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { safetensorsSource } from '../../src/core/io/weightSource.ts';
import { DecoderRunner } from '../../src/core/runner.ts';
import type { WeightSource } from '../../src/core/weights.ts';
import { readValues, Weights } from '../../src/core/weights.ts';
import { buildDecoder } from '../../src/models/arch.ts';
import { archOf } from '../../src/models/registry.ts';
import { dequantizeInto } from '../../src/quant/index.ts';

export interface TestBackend {
  readonly name: string;
  /** Positions of a cache block that the back-end takes. */
  readonly blockSize: number;
  create(): Promise<Backend>;
}

/** Every back-end the models must be right on. */
export const backends: readonly TestBackend[] = [
  { name: 'reference', blockSize: 8, create: async () => new ReferenceBackend() },
  { name: 'reference, composed ops', blockSize: 8, create: async () => new ReferenceBackend({ requiredOnly: true }) },
  { name: 'cpu', blockSize: 32, create: () => createCpuBackend({ threads: 2 }) },
];

export const fixtures = new URL('../fixtures/models/', import.meta.url);
export const codec = { dequantizeInto };

/** Of `../fixtures/mtp`. */
export const FAMILIES_WITH_HEADS: readonly string[] = [
  'qwen3_next',
  'qwen3_5_text',
  'qwen3_5_moe_text',
  'deepseek_v3',
  'glm4_moe',
  'glm4_moe_lite',
  'ernie4_5_moe',
];

const MAX_BLOCKS = 12;

export interface Prompt {
  readonly ids: Int32Array;
  /** `[ids.length, vocab]` */
  readonly logits: Float32Array;
  /** The greedy continuation, and the logits each token was picked from. */
  readonly greedy: Int32Array;
  readonly greedyLogits: Float32Array;
}

export async function readPrompts(folder: URL): Promise<readonly Prompt[]> {
  const checkpoint = await readSafetensors(readFileSync(new URL('expected.safetensors', folder)));
  const source = safetensorsSource(checkpoint);
  const floats = (name: string) => readValues(source.get(name)!, codec);
  const ints = async (name: string) => {
    const info = checkpoint.tensors.get(name)!;
    const bytes = await info.source.slice(info.offset, info.offset + info.bytes);
    return new Int32Array(bytes.slice().buffer);
  };
  const prompts: Prompt[] = [];
  for (let i = 0; source.get(`input_ids.${i}`); i++) {
    prompts.push({
      ids: await ints(`input_ids.${i}`),
      logits: await floats(`logits.${i}`),
      greedy: await ints(`greedy.${i}`),
      greedyLogits: await floats(`greedy_logits.${i}`),
    });
  }
  return prompts;
}

export interface Opened {
  readonly config: unknown;
  readonly source: WeightSource;
}

/** `config`: which configuration file stands beside the weights; a GGUF file brings its own. */
export async function openModel(folder: URL, config = 'config.json'): Promise<Opened> {
  if (existsSync(new URL('model.gguf', folder))) {
    return ggufModel(await readGguf(readFileSync(new URL('model.gguf', folder))));
  }
  const weights = await readSafetensors(readFileSync(new URL('model.safetensors', folder)));
  return {
    config: JSON.parse(readFileSync(new URL(config, folder), 'utf8')) as unknown,
    source: safetensorsSource(weights),
  };
}

/** One sequence on its way through the model. */
export interface Track {
  readonly tokens: number[];
  /** Positions already in the cache. */
  computed: number;
  /** Block numbers, in order of position. */
  readonly blocks: readonly number[];
  /** Where the states of recurrent layers are. */
  readonly slot: number;
}

/** Some tokens of one sequence for the next step. */
export interface Part {
  readonly track: Track;
  readonly count: number;
}

export class LoadedModel {
  readonly runner: DecoderRunner;
  readonly #weights: Weights;
  #tracks = 0;

  private constructor(weights: Weights, runner: DecoderRunner) {
    this.#weights = weights;
    this.runner = runner;
  }

  /**
   * Expands all weights to f32, so that every back-end computes exactly; with `auto` they stay as they are stored. `cache`:
   * the element type of keys and values. The back-end stays the caller's.
   */
  static async load(
    backend: Backend,
    blockSize: number,
    opened: Opened,
    dtype: 'f32' | 'auto' = 'f32',
    cache: KvDType = 'f32',
  ): Promise<LoadedModel> {
    const arch = await archOf(opened.config);
    const weights = Weights.open({ backend, source: opened.source, codec, dtype });
    const built = buildDecoder(arch, weights, arch.config(opened.config));
    const decoder = { ...built, caches: built.caches.map((spec) => ({ ...spec, dtype: cache })) };
    await weights.load();
    const sizes = {
      blocks: 2 * MAX_BLOCKS,
      blockSize,
      maxRows: 128,
      maxSequences: 2,
      maxBlocks: MAX_BLOCKS,
    };
    return new LoadedModel(weights, new DecoderRunner(backend, decoder, sizes));
  }

  /** A new sequence; at most two live at a time. Blocks of the two lie between each other, and not in order. */
  track(tokens: Iterable<number>): Track {
    const which = this.#tracks++ % 2;
    const blocks = Array.from({ length: MAX_BLOCKS }, (_, i) => 2 * ((i * 5) % MAX_BLOCKS) + which);
    return { tokens: [...tokens], computed: 0, blocks, slot: 1 - which };
  }

  /** Runs `count` more tokens of each sequence and returns the logits of the wanted rows: of all, when absent. */
  async step(parts: readonly Part[], wanted?: readonly number[]): Promise<Float32Array> {
    const { blockSize } = this.runner;
    const rows = parts.reduce((n, p) => n + p.count, 0);
    const logitRows = Int32Array.from(wanted ?? Array.from({ length: rows }, (_, i) => i));
    const ints = (n: number) => new Int32Array(n);
    const batch: PackedBatch = {
      rows,
      sequences: parts.length,
      follows: false,
      blocksPerSequence: MAX_BLOCKS,
      logitCount: logitRows.length,
      copyCount: 0,
      tokens: ints(rows),
      positions: ints(rows),
      slots: ints(rows),
      seqStart: ints(parts.length + 1),
      kvLen: ints(parts.length),
      blockTable: ints(parts.length * MAX_BLOCKS),
      adapters: ints(parts.length),
      stateSlots: ints(parts.length),
      logitRows,
      promptLengths: ints(parts.length),
      baseLen: ints(parts.length),
      copies: ints(0),
      stateCopies: ints(0),
      stateCopyCount: 0,
    };
    let row = 0;
    for (const [s, { track, count }] of parts.entries()) {
      batch.seqStart[s] = row;
      for (let i = 0; i < count; i++, row++) {
        const position = track.computed + i;
        batch.tokens[row] = track.tokens[position]!;
        batch.positions[row] = position;
        batch.slots[row] = track.blocks[Math.floor(position / blockSize)]! * blockSize + (position % blockSize);
      }
      track.computed += count;
      batch.kvLen[s] = track.computed;
      batch.stateSlots[s] = track.slot;
      batch.baseLen[s] = track.tokens.length;
      batch.blockTable.set(track.blocks, s * MAX_BLOCKS);
    }
    batch.seqStart[parts.length] = row;
    return (await this.runner.forward(batch)).slice();
  }

  /** All logits of one sequence, run in steps of at most `size` tokens. */
  async prefill(tokens: Iterable<number>, size = Number.POSITIVE_INFINITY): Promise<Float32Array> {
    const track = this.track(tokens);
    const out: number[] = [];
    while (track.computed < track.tokens.length) {
      const count = Math.min(size, track.tokens.length - track.computed);
      for (const v of await this.step([{ track, count }])) out.push(v);
    }
    return Float32Array.from(out);
  }

  dispose(): void {
    this.runner.dispose();
    this.#weights.dispose();
  }
}

/** Largest difference of two arrays, which must be equally long. */
export function furthest(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) throw new Error(`expected ${b.length} values, got ${a.length}`);
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i]! - b[i]!);
    if (!(d <= most)) most = d;
  }
  return most;
}

export function argmax(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}
