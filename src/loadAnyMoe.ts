/** AnyMoE of a model that is being loaded: experts out of other checkpoints, and gates, trained here or before. */

import { MAX_DATASET_BYTES, parseDataset } from './core/anymoe/dataset.ts';
import { type ExpertSource, fineTuned, withLora } from './core/anymoe/experts.ts';
import { GATE_FILE, type GateValues, placeGate, readGate, writeGates } from './core/anymoe/gates.ts';
import { ExpertMixtures, type MixedLayer } from './core/anymoe/mixtures.ts';
import { type GateInputs, probeBatches } from './core/anymoe/probe.ts';
import { shuffled, trainGate } from './core/anymoe/train.ts';
import type { Backend } from './core/backend.ts';
import { ConfigError, ModelLoadError, RequestValidationError } from './core/errors.ts';
import type { ModelFolder } from './core/io/folder.ts';
import { joinPath } from './core/io/path.ts';
import { readSafetensors } from './core/io/safetensors.ts';
import { sourceOf, sourceTensors } from './core/io/weightSource.ts';
import type { Platform } from './core/platform.ts';
import type { DecoderRunner } from './core/runner.ts';
import type { AdapterInput } from './core/sdk/adapters.ts';
import { type AnyMoeSettings, anyMoeSettings } from './core/sdk/anyMoe.ts';
import { maxRowsOf } from './core/sdk/cacheSize.ts';
import type { LoadOptions } from './core/sdk/options.ts';
import { resolveReasoning } from './core/sdk/reasoning.ts';
import type { Releases } from './core/sdk/releases.ts';
import type { ModelText } from './core/sdk/text.ts';
import type { SourceTensor } from './core/weights.ts';
import { adapterFolder } from './loadLora.ts';
import { dequantizeInto } from './quant/index.ts';

const codec = { dequantizeInto };
/** How long a training keeps the thread to itself. */
const TURN_MS = 20;

interface Home {
  readonly platform: Platform;
  readonly backend: Backend;
  readonly releases: Releases;
}

/** What a model is built with, before its gates are there. */
export interface OpenedAnyMoe {
  readonly settings: AnyMoeSettings;
  readonly mixtures: ExpertMixtures;
  /** Closes the experts' files. */
  closeFiles(): Promise<void>;
}

/** Opens the experts that `anyMoe` names; only headers are read. Rejects with `LoraAdapterError` or `ModelLoadError`. */
export async function openAnyMoe(options: LoadOptions, home: Home): Promise<OpenedAnyMoe | undefined> {
  if (options.anyMoe === undefined) return undefined;
  const settings = anyMoeSettings(options.anyMoe);
  const closers: (() => Promise<void>)[] = [];
  const experts: ExpertSource[] = [];
  for (const [i, id] of settings.modelIds.entries()) {
    const opened = await openTensors(`anyMoe.modelIds[${i}]`, id, options, home);
    closers.push(opened.close);
    const { expertType } = settings.config;
    const source = sourceOf(opened.tensors);
    experts.push(
      expertType === 'fineTuned'
        ? fineTuned(source, opened.where)
        : withLora(source, opened.where, expertType.lora, codec),
    );
  }
  const { prefix, mlp, layers, topK } = settings;
  const { backend, releases } = home;
  const mixtures = new ExpertMixtures({ backend, maxRows: maxRowsOf(options), experts, prefix, mlp, layers, topK });
  releases.add(() => mixtures.dispose());
  return {
    settings,
    mixtures,
    async closeFiles() {
      for (const close of closers) await close();
    },
  };
}

export interface GateHome extends Home {
  readonly runner: DecoderRunner;
  readonly text: ModelText | undefined;
}

/** Reads the gates, or trains them on the loaded model. */
export async function loadGates(anyMoe: OpenedAnyMoe, options: LoadOptions, home: GateHome): Promise<void> {
  const { settings, mixtures } = anyMoe;
  const { layers } = mixtures;
  const hidden = home.runner.decoder.hidden;
  if (settings.config.hiddenSize !== hidden) {
    throw new ConfigError(`option anyMoe.config.hiddenSize: expected ${hidden}, got ${settings.config.hiddenSize}`);
  }
  checkLayers(settings, layers);
  const { training, gateModelId } = settings.config;
  const gates = training
    ? await trainGates(anyMoe, options, home)
    : await readGates(gateModelId!, layers, hidden, options, home);
  for (const layer of layers) await placeGate(home.backend, layer, hidden, gates.get(layer.layer)!);
}

function checkLayers({ prefix, mlp, layers }: AnyMoeSettings, found: readonly MixedLayer[]): void {
  const missing = layers.find((n) => !found.some((layer) => layer.layer === n));
  if (found.length > 0 && missing === undefined) return;
  throw new ConfigError(
    `option anyMoe.layers: expected layers with a dense MLP at "${prefix}.${missing ?? 'n'}.${mlp}", got a model without it; check prefix, mlp and layers`,
  );
}

async function readGates(
  id: string,
  layers: readonly MixedLayer[],
  hidden: number,
  options: LoadOptions,
  home: Home,
): Promise<Map<number, GateValues>> {
  const opened = await openTensors('anyMoe.config.gateModelId', id, options, home, 1);
  try {
    const gates = new Map<number, GateValues>();
    for (const layer of layers) gates.set(layer.layer, await readGate(opened.tensors, layer, hidden, codec));
    return gates;
  } finally {
    await opened.close();
  }
}

async function trainGates(anyMoe: OpenedAnyMoe, options: LoadOptions, home: GateHome) {
  const { settings, mixtures } = anyMoe;
  const { config } = settings;
  const { platform, runner } = home;
  const { hidden } = runner.decoder;
  const experts = settings.modelIds.length + 1;
  const text = await platform.readText(settings.datasetPath!, MAX_DATASET_BYTES);
  const prompts = encode(parseDataset(text, settings.datasetPath!, experts), home.text);
  const gates = new Map<number, GateValues>();
  const losses: (readonly number[])[] = [];
  const order = (epoch: number) => shuffled(prompts.length, options.seed ?? 0, epoch);
  const turns = epochTurns(options, mixtures.layers.length * config.epochs);
  const train = async ({ layer, examples }: GateInputs) => {
    const { lr, epochs, batchSize } = config;
    const onEpoch = () => turns(`moe_gate.${layer.layer}`);
    const gate = await trainGate(examples, { hidden, experts, lr, epochs, batchSize, order, onEpoch });
    gates.set(layer.layer, { weight: Float32Array.from(gate.weight), bias: Float32Array.from(gate.bias) });
    losses.push(gate.losses);
  };
  await probeBatches({ runner, mixtures, backend: home.backend, prompts, signal: options.signal }, train);
  const { gateModelId, lossCsvPath } = config;
  if (gateModelId !== undefined) await platform.writeFile(joinPath(gateModelId, GATE_FILE), writeGates(gates, hidden));
  if (lossCsvPath !== undefined) await platform.writeFile(lossCsvPath, lossTable(losses));
  return gates;
}

/** Reports the progress of a training, sees to it that it can be cancelled, and lets the host do other things meanwhile. */
function epochTurns({ signal, onProgress }: LoadOptions, total: number): (item: string) => Promise<void> {
  let done = 0;
  let last = performance.now();
  return async (item) => {
    onProgress?.({ stage: 'warmup', done: done++, total, unit: 'steps', item });
    signal?.throwIfAborted();
    if (performance.now() - last < TURN_MS) return;
    await new Promise((resolve) => void setTimeout(resolve, 0));
    last = performance.now();
  };
}

function encode(rows: ReturnType<typeof parseDataset>, text: ModelText | undefined) {
  if (text === undefined) {
    throw new RequestValidationError(
      'no_tokenizer',
      'option anyMoe: expected a model with a tokenizer to train on text, got none',
    );
  }
  const reasoning = resolveReasoning(undefined, undefined);
  return rows.map(({ prompt, expert }) => ({
    ids: text.encodeChat([{ role: 'user', content: prompt }], { reasoning }),
    expert,
  }));
}

/** Losses by step, a column for each gate. */
function lossTable(losses: readonly (readonly number[])[]): string {
  const lines = [['Step', ...losses.map((_, i) => `Gating layer ${i}`)]];
  for (const step of losses[0]!.keys()) lines.push([`Step ${step}`, ...losses.map((l) => l[step]!.toFixed(4))]);
  return `${lines.map((cells) => cells.join(',')).join('\n')}\n`;
}

/** All tensors of the safetensors files at the top of a folder; `most` bounds how many files there may be. */
async function openTensors(
  what: string,
  id: AdapterInput,
  options: LoadOptions,
  { platform, releases }: Home,
  most = Number.POSITIVE_INFINITY,
) {
  const folder: ModelFolder = await adapterFolder(what, id, undefined, options, platform);
  const names = folder.files.filter((f) => f.endsWith('.safetensors') && !f.includes('/'));
  const parts = names.filter((f) => !f.startsWith('consolidated'));
  const wanted = parts.length > 0 ? parts : names;
  if (wanted.length === 0 || wanted.length > most) {
    throw new ModelLoadError(
      `option ${what}: ${folder.location}: expected ${most === 1 ? 'one safetensors file' : 'safetensors files'}, got ${wanted.length === 0 ? 'none' : wanted.join(', ')}`,
    );
  }
  await folder.prepare(wanted);
  const tensors = new Map<string, SourceTensor>();
  const closers: (() => Promise<void>)[] = [];
  for (const name of wanted) {
    const file = await folder.open(name);
    closers.push(releases.add(() => file.close()));
    for (const [key, tensor] of sourceTensors(await readSafetensors(file))) tensors.set(key, tensor);
  }
  return {
    tensors,
    where: folder.location,
    async close() {
      for (const close of closers) await close();
    },
  };
}
