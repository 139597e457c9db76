/** From load options to quantization in place: what a model gets at load, and again later. */

import { DRAFT_HEADS } from './core/draftHead.ts';
import type { BetweenSteps } from './core/engine/types.ts';
import { ConfigError, InferenceError, ManagementError, messageOf, UnsupportedError } from './core/errors.ts';
import type { Platform } from './core/platform.ts';
import { isRecord } from './core/schema.ts';
import { type ApplyCalibrationOptions, type CalibrationStatus, checkApplyOptions } from './core/sdk/calibration.ts';
import type { LoadOptions } from './core/sdk/options.ts';
import type { ModelQuantization, QuantReport } from './core/sdk/quantReport.ts';
import type { Releases } from './core/sdk/releases.ts';
import type { Recoder, Weights } from './core/weights.ts';
import { ggufFamily } from './ggufArch.ts';
import { readCimatrix, writeCimatrix } from './quant/cimatrix.ts';
import { readImatrix } from './quant/imatrix.ts';
import { byModule, Calibration, type Measured, quantizedLayers } from './quant/isq/calibration.ts';
import { exchangeLayers, type FailedLayer } from './quant/isq/exchange.ts';
import { Importance } from './quant/isq/importance.ts';
import { Isq } from './quant/isq/index.ts';
import { Packers } from './quant/isq/packers.ts';
import { parseTopology, type Topology, topologyOf } from './quant/isq/topology.ts';
import { type IsqType, parseBits, parseIsq } from './quant/isq/types.ts';

const MAX_TOPOLOGY_BYTES = 4 << 20;

export interface IsqSettings {
  readonly type: IsqType | undefined;
  readonly expertsOnly: boolean;
  readonly topology: Topology | undefined;
  readonly importance: Importance | undefined;
}

/** What the options ask for, with its files read; `undefined` when they ask for nothing. */
export async function isqSettings(
  options: LoadOptions,
  platform: Platform,
  config: unknown,
): Promise<IsqSettings | undefined> {
  const type = requestedType(options);
  const topology = withDraftHead(await topologyFrom(options, platform), options.mtp?.draftLmHeadIsq);
  const expertsOnly = options.mixtureQexpertsIsq === true;
  if (!type && expertsOnly)
    throw new ConfigError('option mixtureQexpertsIsq: expected isq too, got none; set the type');
  if (!type && options.imatrix !== undefined) {
    throw new ConfigError('option imatrix: expected isq too, got none; set the type');
  }
  if (!type && !topology) return undefined;
  if (options.dtype === 'f32') {
    throw new ConfigError('option dtype: expected auto together with isq, got f32, which expands all weights');
  }
  const importance =
    options.imatrix === undefined ? undefined : await importanceFrom(options.imatrix, platform, config);
  return { type, expertsOnly, topology, importance };
}

function requestedType({ isq, autoIsq }: LoadOptions): IsqType | undefined {
  if (isq !== undefined && autoIsq !== undefined) {
    throw new ConfigError('option autoIsq: expected isq or autoIsq, got both');
  }
  if (autoIsq !== undefined) return parseBits(autoIsq, 'option autoIsq');
  return isq === undefined ? undefined : parseIsq(isq, 'option isq');
}

/** With a type for the matrix that only guesses are made with, whatever else is said about it. */
function withDraftHead(topology: Topology | undefined, isq: string | number | undefined): Topology | undefined {
  if (isq === undefined) return topology;
  const pin = topologyOf({ [`/${DRAFT_HEADS.source}/`]: { isq } }, 'option mtp.draftLmHeadIsq');
  return {
    devices: topology?.devices ?? pin.devices,
    find: (name, layer) => pin.find(name, layer) ?? topology?.find(name, layer),
  };
}

async function topologyFrom(options: LoadOptions, platform: Platform): Promise<Topology | undefined> {
  const { topology, topologyFromPath: path } = options;
  if (topology !== undefined && path !== undefined) {
    throw new ConfigError('option topologyFromPath: expected topology or topologyFromPath, got both');
  }
  if (path !== undefined) return parseTopology(await platform.readText(path, MAX_TOPOLOGY_BYTES), path);
  return topology === undefined ? undefined : topologyOf(topology);
}

async function importanceFrom(
  file: NonNullable<LoadOptions['imatrix']>,
  platform: Platform,
  config: unknown,
): Promise<Importance> {
  if (isMap(file)) return Importance.fromModules(file, 'imatrix');
  const where = typeof file === 'string' ? file : 'imatrix';
  if (typeof file === 'string' && file.endsWith('.cimatrix')) {
    return Importance.fromModules(await readCimatrix(file, { platform }), where);
  }
  const family = await ggufFamily(config);
  if (!family) {
    const name = isRecord(config) ? String(config['architectures']) : 'none';
    throw new UnsupportedError(`${where}: expected an architecture with names in GGUF files, got ${name}`, {
      feature: 'imatrix',
    });
  }
  return Importance.fromImatrix(await readImatrix(file, { platform }), family.arch, where);
}

function isMap(file: NonNullable<LoadOptions['imatrix']>): file is ReadonlyMap<string, Float32Array> {
  return file instanceof Map;
}

/** Refuses devices of a topology that the model is not on: one model is on one device. */
function checkDevices(topology: Topology | undefined, device: string): void {
  const here = device === 'webgpu' ? ['webgpu', 'webgpu[0]'] : ['cpu'];
  for (const name of topology?.devices ?? []) {
    if (here.includes(name)) continue;
    throw new UnsupportedError(`topology: device: expected the device of the model (${here[0]}), got ${name}`, {
      feature: `device ${name}`,
    });
  }
}

/** How the engine of a model lets its weights be changed. */
export interface Controls {
  /** Behind all requests before, ahead of all behind. */
  exclusive(
    task: () => Promise<void>,
    options: { readonly signal?: AbortSignal | undefined; readonly keepsModel?: boolean },
  ): Promise<void>;
  readonly between: BetweenSteps;
  /** What is cached belongs to a model that is no more. */
  forgetPrefixes(): void;
}

interface Surroundings {
  readonly platform: Platform;
  readonly releases: Releases;
  readonly warn: (message: string) => void;
}

/** Quantization of one model: at load, and again while it serves. */
export class InPlace {
  readonly #settings: IsqSettings;
  readonly #threads: number;
  readonly #platform: Platform;
  readonly #warn: (message: string) => void;
  readonly #started = performance.now();
  #weights: Weights | undefined;
  #calibration: Calibration | undefined;
  /** Of the file that was named, until traffic has told better. */
  #importance: Importance | undefined;
  #packers: Packers;
  #isq: Isq;
  #report: QuantReport | undefined;
  #busy = false;

  private constructor(settings: IsqSettings, threads: number, { platform, warn }: Surroundings) {
    this.#settings = settings;
    this.#threads = threads;
    this.#platform = platform;
    this.#warn = warn;
    this.#importance = settings.importance;
    this.#packers = new Packers({ threads });
    this.#isq = new Isq(settings, this.#packers, settings.importance);
  }

  /** As the options ask, with the files they name read; `undefined` when they ask for nothing. */
  static async of(
    options: LoadOptions,
    config: unknown,
    device: string,
    surroundings: Surroundings,
  ): Promise<InPlace | undefined> {
    const { platform, releases } = surroundings;
    const settings = await isqSettings(options, platform, config);
    if (!settings) return undefined;
    checkDevices(settings.topology, device);
    const inPlace = new InPlace(settings, options.threads ?? platform.hardwareConcurrency(), surroundings);
    releases.add(() => inPlace.#packers.dispose());
    return inPlace;
  }

  /** What `Weights` reads through. */
  get recoder(): Recoder {
    return this.#isq;
  }

  /** Takes the weights of the built model; demands that there is something to quantize, before anything is read. */
  attach(weights: Weights): void {
    this.#weights = weights;
    this.#calibration = new Calibration(weights);
    for (const note of this.#isq.check()) this.#warn(note);
  }

  /** Called when all weights have been read. */
  async loaded(): Promise<void> {
    this.#report = this.#isq.report((performance.now() - this.#started) / 1000);
    await this.#packers.dispose();
  }

  /** What the model offers its users. */
  serving(controls: Controls, modelId: string): ModelQuantization {
    return {
      report: () => this.#report,
      requantize: (type, signal) => this.#requantize(type, controls, modelId, signal),
      beginCalibration: (signal) =>
        ordered(controls, signal, async () => {
          this.#live.end();
          this.#live.begin(quantizedLayers(this.#weights as Weights, this.#isq));
          return this.#live.status(this.#isq);
        }),
      calibrationStatus: (perLayer, signal) =>
        ordered(controls, signal, async () => this.#live.status(this.#isq, perLayer)),
      applyCalibration: (options, signal) => this.#apply(options, controls, modelId, signal),
    };
  }

  get #live(): Calibration {
    return this.#calibration as Calibration;
  }

  async #requantize(
    type: unknown,
    controls: Controls,
    modelId: string,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const parsed = parseIsq(type, 'reIsqModel');
    await this.#alone('reIsqModel', modelId, async (packers) => {
      const next = new Isq({ ...this.#settings, type: parsed }, packers, this.#importance);
      await controls.exclusive(
        async () => {
          const started = performance.now();
          const present = await (this.#weights as Weights).recode(next, { signal });
          this.#isq = next;
          this.#report = next.report((performance.now() - started) / 1000);
          this.#warnOf(present, 'reIsqModel');
        },
        { signal },
      );
    });
  }

  async #apply(
    options: ApplyCalibrationOptions,
    controls: Controls,
    modelId: string,
    signal: AbortSignal | undefined,
  ): Promise<CalibrationStatus> {
    return this.#alone('applyCalibration', modelId, async (packers) => {
      const { status, measured } = await ordered(controls, signal, () => this.#harvest(options));
      await this.#exchange(measured, packers, controls, signal);
      return status;
    });
  }

  async #harvest({ saveCimatrix, minRows = 0 }: ApplyCalibrationOptions) {
    const live = this.#live;
    const status = live.status(this.#isq);
    const thinLayers = live.thin(minRows);
    live.checkCollecting();
    checkApplyOptions({ saveCimatrix, minRows });
    const measured = await live.harvest();
    const entries = byModule(measured);
    if (saveCimatrix !== undefined) await this.#platform.writeFile(saveCimatrix, writeCimatrix(entries));
    live.end();
    this.#importance = Importance.fromModules(entries, 'calibration');
    if (thinLayers.length > 0) {
      this.#warn(`applyCalibration: ${thinLayers.length} of ${status.layers} layers saw fewer than ${minRows} rows`);
    }
    return { measured, status: thinLayers.length > 0 ? { ...status, thinLayers } : status };
  }

  /** Quantizes layer by layer while requests go on; each is exchanged between two steps as soon as it is there. */
  async #exchange(
    measured: readonly Measured[],
    packers: Packers,
    { between, forgetPrefixes }: Controls,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { plan } = this.#isq;
    const result = await exchangeLayers(measured, {
      weights: this.#weights as Weights,
      recoder: (importance) => new Isq(plan, packers, importance ?? this.#settings.importance),
      between,
      signal,
    }).finally(() => between(async () => forgetPrefixes()));
    this.#warnOf(result.present, 'applyCalibration');
    if (result.failed.length === 0) return;
    const layers = result.failed.reduce((n, { modules }) => n + modules.length, 0);
    const all = measured.reduce((n, { layer }) => n + layer.modules.length, 0);
    const first = result.failed[0] as FailedLayer;
    throw new InferenceError(
      `applyCalibration: ${layers} of ${all} layers failed and keep their weights; the first, ${first.modules[0]}: ${messageOf(first.error)}`,
      { cause: first.error },
    );
  }

  #warnOf(present: number, what: string): void {
    if (present === 0) return;
    this.#warn(
      `${what}: ${present} matrices were made from their present, quantized values: the files of the model cannot be read any more`,
    );
  }

  /** Runs a task that changes the weights, unless another one does. */
  async #alone<T>(what: string, modelId: string, task: (packers: Packers) => Promise<T>): Promise<T> {
    if (this.#busy) {
      throw new ManagementError(
        `${what}: expected one at a time, got another while reIsqModel or applyCalibration runs; await it`,
        modelId,
      );
    }
    this.#busy = true;
    const packers = new Packers({ threads: this.#threads });
    try {
      return await task(packers);
    } finally {
      this.#busy = false;
      await packers.dispose();
    }
  }
}

/** The result of a task that keeps its place between requests and leaves the weights alone. */
async function ordered<T>(
  { exclusive }: Controls,
  signal: AbortSignal | undefined,
  task: () => Promise<T>,
): Promise<T> {
  let result: { readonly value: T } | undefined;
  await exclusive(
    async () => {
      result = { value: await task() };
    },
    { signal, keepsModel: true },
  );
  return (result as { readonly value: T }).value;
}
