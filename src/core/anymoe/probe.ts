/** What the gates read of each prompt of a dataset, found by running the model. */
import type { Backend } from '../backend.ts';
import { Engine } from '../engine/engine.ts';
import { ConfigError } from '../errors.ts';
import type { DecoderRunner } from '../runner.ts';
import type { Tensor } from '../tensor.ts';
import type { ExpertMixtures, MixedLayer } from './mixtures.ts';
import type { GateExample } from './train.ts';

/** What is held of the inputs of gates at a time; layers take turns beyond it. */
const MAX_BYTES = 2 ** 30;

export interface GateInputs {
  readonly layer: MixedLayer;
  readonly examples: readonly GateExample[];
}

export interface ProbeParts {
  readonly runner: DecoderRunner;
  readonly mixtures: ExpertMixtures;
  readonly backend: Backend;
  readonly prompts: readonly { readonly ids: Uint32Array; readonly expert: number }[];
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs every prompt with its own expert in all layers, as it will once the gates choose it, and hands the inputs of one gate
 * after the other to `train`. Throws `ConfigError` for prompts that do not fit.
 */
export async function probeBatches(parts: ProbeParts, train: (inputs: GateInputs) => Promise<void>): Promise<void> {
  const { runner, mixtures, prompts } = parts;
  const { hidden } = runner.decoder;
  const tokens = prompts.reduce((n, { ids }) => n + ids.length, 0);
  const longest = prompts.reduce((n, { ids }) => Math.max(n, ids.length), 0);
  const most = Math.min(runner.maxRows, runner.contextLength - 1);
  if (longest > most || longest === 0) {
    throw new ConfigError(
      `anymoe dataset: expected prompts of 1 to ${most} tokens, got one of ${longest}; raise maxBatchTokens`,
    );
  }
  const perLayer = 4 * hidden * (tokens + longest);
  if (perLayer > MAX_BYTES) {
    throw new ConfigError(
      `anymoe dataset: expected at most ${Math.floor(MAX_BYTES / (4 * hidden))} tokens, got ${tokens}`,
    );
  }
  const step = Math.floor(MAX_BYTES / perLayer);
  const engine = new Engine(runner, { prefixCache: false, maxNumSeqs: 1, maxBatchTokens: runner.maxRows });
  try {
    const { layers } = mixtures;
    for (let at = 0; at < layers.length; at += step) {
      for (const inputs of await probe(layers.slice(at, at + step), longest, engine, parts)) await train(inputs);
    }
  } finally {
    mixtures.force(undefined);
    await engine.dispose();
  }
}

async function probe(
  layers: readonly MixedLayer[],
  longest: number,
  engine: Engine,
  { runner, mixtures, backend, prompts, signal }: ProbeParts,
): Promise<readonly GateInputs[]> {
  const { hidden } = runner.decoder;
  const probes: Tensor[] = layers.map(() => backend.persistent([longest, hidden], 'f32'));
  const examples: GateExample[][] = layers.map(() => []);
  layers.forEach((layer, i) => {
    layer.probe = probes[i];
  });
  try {
    for (const { ids, expert } of prompts) {
      signal?.throwIfAborted();
      mixtures.force(expert);
      await engine.generate({ prompt: ids, sampling: { temperature: 0, maxLen: 1 } });
      for (const [i, tensor] of probes.entries()) {
        const rows = await backend.read(tensor.rows(0, ids.length));
        examples[i]!.push({ inputs: Float32Array.from(rows), expert });
      }
    }
  } finally {
    for (const layer of layers) layer.probe = undefined;
    for (const tensor of probes) tensor.dispose();
  }
  return layers.map((layer, i) => ({ layer, examples: examples[i]! }));
}
