/** From load options to quantization in place: what a model gets at load, and again later. */
import { ConfigError, ManagementError, UnsupportedError } from './core/errors.ts';
import type { Platform } from './core/platform.ts';
import { isRecord } from './core/schema.ts';
import type { LoadOptions } from './core/sdk/options.ts';
import type { ModelQuantization, QuantReport } from './core/sdk/quantReport.ts';
import type { Releases } from './core/sdk/releases.ts';
import type { Recoder, Weights } from './core/weights.ts';
import { ggufFamily } from './ggufArch.ts';
import { readCimatrix } from './quant/cimatrix.ts';
import { readImatrix } from './quant/imatrix.ts';
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
  const topology = await topologyFrom(options, platform);
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

/** What a task needs that must run between two steps. */
export type Exclusive = (task: () => Promise<void>, signal: AbortSignal | undefined) => Promise<void>;

interface Surroundings {
  readonly platform: Platform;
  readonly releases: Releases;
  readonly warn: (message: string) => void;
}

/** Quantization of one model: at load, and again while it serves. */
export class InPlace {
  readonly #settings: IsqSettings;
  readonly #threads: number;
  readonly #warn: (message: string) => void;
  readonly #started = performance.now();
  #weights: Weights | undefined;
  #packers: Packers;
  #isq: Isq;
  #report: QuantReport | undefined;
  #busy = false;

  private constructor(settings: IsqSettings, threads: number, warn: (message: string) => void) {
    this.#settings = settings;
    this.#threads = threads;
    this.#warn = warn;
    this.#packers = new Packers({ threads });
    this.#isq = new Isq(settings, this.#packers, settings.importance);
  }

  /** As the options ask, with the files they name read; `undefined` when they ask for nothing. */
  static async of(
    options: LoadOptions,
    config: unknown,
    device: string,
    { platform, releases, warn }: Surroundings,
  ): Promise<InPlace | undefined> {
    const settings = await isqSettings(options, platform, config);
    if (!settings) return undefined;
    checkDevices(settings.topology, device);
    const inPlace = new InPlace(settings, options.threads ?? platform.hardwareConcurrency(), warn);
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
    for (const note of this.#isq.check()) this.#warn(note);
  }

  /** Called when all weights have been read. */
  async loaded(): Promise<void> {
    this.#report = this.#isq.report((performance.now() - this.#started) / 1000);
    await this.#packers.dispose();
  }

  /** What the model offers its users. */
  serving(exclusive: Exclusive, modelId: string): ModelQuantization {
    return {
      report: () => this.#report,
      requantize: (type, signal) => this.#requantize(type, exclusive, modelId, signal),
    };
  }

  async #requantize(
    type: unknown,
    exclusive: Exclusive,
    modelId: string,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const parsed = parseIsq(type, 'reIsqModel');
    if (this.#busy) {
      throw new ManagementError('reIsqModel: expected one at a time, got another while one runs; await it', modelId);
    }
    this.#busy = true;
    const packers = new Packers({ threads: this.#threads });
    const next = new Isq({ ...this.#settings, type: parsed }, packers, this.#settings.importance);
    try {
      await exclusive(async () => {
        const started = performance.now();
        await this.#weights?.recode(next, { signal });
        this.#isq = next;
        this.#report = next.report((performance.now() - started) / 1000);
      }, signal);
    } finally {
      this.#busy = false;
      await packers.dispose();
    }
  }
}
