/**
 * The adapters of one loaded model. An alias names a generation; a generation is known by its contents and stays as long as
 * an alias names it or a request that began with it runs.
 */
import type { Backend } from '../backend.ts';
import type { AdapterLease, AdapterPool, AdapterSelection, BetweenSteps } from '../engine/types.ts';
import type { ModelFolder } from '../io/folder.ts';
import type { Weight } from '../weight.ts';
import type { Codec } from '../weights.ts';
import { adapterMatrices, devicePair, disposePair } from './build.ts';
import { AdapterDelta, type DevicePair } from './delta.ts';
import { loraError } from './error.ts';
import { guarded, type MakeHasher, openAdapter } from './files.ts';
import { ModuleIndex } from './modules.ts';
import { type AdapterPlan, planAdapter } from './plan.ts';
import type { AdapterRows } from './rows.ts';

/** Most adapters, rank and device bytes. */
export interface LoraLimits {
  readonly maxAdapters: number;
  readonly maxRank: number;
  readonly maxBytes: number;
}

export const DEFAULT_LORA_LIMITS: LoraLimits = { maxAdapters: 16, maxRank: 256, maxBytes: 8 * 2 ** 30 };
/** UTF-8 bytes of a name. */
export const MAX_ALIAS_BYTES = 256;
/** Names of all adapters together. */
const MAX_ALIASES = 1024;

/**
 * `create` refuses an alias that is taken, `upsert` moves it, `compareAndSwap` moves it only if it names that generation.
 */
export type LoraLoadPolicy = 'create' | 'upsert' | { readonly compareAndSwap: string };

export interface LoraAdapterInfo {
  readonly alias: string;
  /** Where it was loaded from. */
  readonly source: string;
  readonly revision?: string;
  /** SHA-256 of its contents, in hexadecimal. */
  readonly generation: string;
  readonly rank: number;
  /** On the device. */
  readonly bytes: number;
}

export interface LoraGenerationStatus {
  readonly generation: string;
  readonly aliases: readonly string[];
  readonly rank: number;
  readonly bytes: number;
  /** No alias names it any more. */
  readonly retired: boolean;
  /** Requests that run with it. */
  readonly activeLeases: number;
}

export interface LoraAdapterStatus {
  readonly adapters: readonly LoraAdapterInfo[];
  readonly generations: readonly LoraGenerationStatus[];
  readonly residentGenerations: number;
  readonly retiredGenerations: number;
  readonly residentBytes: number;
  readonly limits: LoraLimits;
}

/** Where an adapter's files are. */
export interface LoraSource {
  readonly source: string;
  readonly revision?: string | undefined;
  open(): Promise<ModelFolder>;
}

export interface LoraRuntimeParts {
  readonly backend: Backend;
  readonly weights: Iterable<Weight>;
  readonly rows: AdapterRows;
  readonly codec: Codec;
  readonly hasher: MakeHasher;
  readonly limits?: Partial<LoraLimits> | undefined;
}

interface Generation {
  readonly id: string;
  /** Never given twice. */
  readonly serial: number;
  readonly rank: number;
  readonly bytes: number;
  readonly pairs: ReadonlyMap<Weight, DevicePair>;
  leases: number;
}

interface Alias {
  readonly generation: Generation;
  readonly source: string;
  readonly revision: string | undefined;
}

export class LoraRuntime implements AdapterPool {
  readonly limits: LoraLimits;
  readonly #parts: LoraRuntimeParts;
  readonly #modules: ModuleIndex;
  readonly #aliases = new Map<string, Alias>();
  readonly #generations = new Map<string, Generation>();
  #between: BetweenSteps = (task) => task();
  #serials = 0;
  #loading = false;
  #disposed = false;

  constructor(parts: LoraRuntimeParts) {
    this.#parts = parts;
    this.limits = limitsOf(parts.limits ?? {});
    this.#modules = new ModuleIndex(parts.weights);
  }

  /** Weights change between steps only: tells how to wait for that. */
  connect(between: BetweenSteps): void {
    this.#between = between;
  }

  /** Loads an adapter under a name. Throws `LoraAdapterError`; what was there stays then. */
  async load(name: string, from: LoraSource, policy: LoraLoadPolicy = 'create'): Promise<LoraAdapterInfo> {
    const alias = aliasOf(name);
    checkPolicy(policy);
    if (this.#loading) {
      throw loraError('load_busy', 'adapter: another one is being loaded; try again when it is done', { alias });
    }
    this.#loading = true;
    try {
      const before = this.#mayBind(alias, policy);
      const folder = await guarded('io', from.source, () => from.open());
      const files = await openAdapter(folder, this.#parts.hasher, this.limits.maxBytes);
      try {
        const known = this.#generations.get(files.generation);
        const generation =
          known ??
          (await this.#place(files.generation, alias, () =>
            planAdapter(files.tensors, files.config, this.#modules, this.limits.maxRank),
          ));
        return await this.#bind(alias, before, { generation, source: from.source, revision: from.revision });
      } finally {
        await files.close();
      }
    } finally {
      this.#loading = false;
    }
  }

  /** Takes a name away. Requests that run with the adapter go on with it. */
  async unload(name: string, options: { readonly expectedGeneration?: string } = {}): Promise<LoraAdapterInfo> {
    const alias = aliasOf(name);
    const bound = this.#aliases.get(alias);
    if (!bound) throw loraError('not_found', `adapter: expected a loaded one, got ${JSON.stringify(alias)}`, { alias });
    const expected = options.expectedGeneration;
    if (expected !== undefined && !same(expected, bound.generation.id)) mismatch(alias, expected, bound.generation.id);
    const info = infoOf(alias, bound);
    this.#aliases.delete(alias);
    await this.#sweep();
    return info;
  }

  list(): LoraAdapterInfo[] {
    return [...this.#aliases]
      .map(([alias, bound]) => infoOf(alias, bound))
      .sort((a, b) => (a.alias < b.alias ? -1 : 1));
  }

  status(): LoraAdapterStatus {
    const generations = [...this.#generations.values()].map((g) => {
      const aliases = [...this.#aliases].filter(([, a]) => a.generation === g).map(([alias]) => alias);
      return {
        generation: g.id,
        aliases: aliases.sort(),
        rank: g.rank,
        bytes: g.bytes,
        retired: aliases.length === 0,
        activeLeases: g.leases,
      };
    });
    return {
      adapters: this.list(),
      generations,
      residentGenerations: generations.length,
      retiredGenerations: generations.filter((g) => g.retired).length,
      residentBytes: generations.reduce((n, g) => n + g.bytes, 0),
      limits: this.limits,
    };
  }

  /** For one request; the generation stays until it is released. */
  acquire(selection: AdapterSelection): AdapterLease {
    const generation = this.#select(selection);
    generation.leases++;
    let held = true;
    return {
      serial: generation.serial,
      generation: generation.id,
      release: () => {
        if (!held) return;
        held = false;
        generation.leases--;
        // Nobody waits for it; when the model is disposed of meanwhile, everything is given back there.
        this.#sweep().catch(() => undefined);
      },
    };
  }

  /** Gives all device memory back. No step may run. */
  dispose(): void {
    this.#disposed = true;
    for (const g of [...this.#generations.values()]) this.#drop(g);
    this.#aliases.clear();
    this.#parts.rows.dispose();
  }

  #select(selection: AdapterSelection): Generation {
    if (typeof selection === 'string') {
      const alias = aliasOf(selection);
      const bound = this.#aliases.get(alias);
      if (bound) return bound.generation;
      throw loraError('not_found', `adapter: expected ${known(this.#aliases.keys())}, got ${JSON.stringify(alias)}`, {
        alias,
      });
    }
    const id = selection.generation.toLowerCase();
    const generation = this.#generations.get(id);
    // A retired one is on its way out: only what began with it may end with it.
    if (generation && this.#isNamed(generation)) return generation;
    throw loraError('generation_not_found', `adapter: expected a loaded generation, got ${JSON.stringify(id)}`, {
      generation: id,
    });
  }

  #isNamed(generation: Generation): boolean {
    for (const a of this.#aliases.values()) if (a.generation === generation) return true;
    return false;
  }

  /** What the alias names now, if the policy lets it be bound. */
  #mayBind(alias: string, policy: LoraLoadPolicy): Generation | undefined {
    const current = this.#aliases.get(alias)?.generation;
    if (policy === 'create' && current !== undefined) {
      const next = 'unload it first, or load with the policy "upsert"';
      throw loraError('already_loaded', `adapter: ${JSON.stringify(alias)} is loaded already; ${next}`, { alias });
    }
    if (typeof policy === 'object') {
      if (current === undefined) {
        throw loraError('not_found', `adapter: expected a loaded one to swap, got ${JSON.stringify(alias)}`, { alias });
      }
      if (!same(policy.compareAndSwap, current.id)) mismatch(alias, policy.compareAndSwap, current.id);
    }
    if (current === undefined && this.#aliases.size >= MAX_ALIASES) {
      throw loraError('alias_limit', `adapter: expected at most ${MAX_ALIASES} names; unload one`, { alias });
    }
    return current;
  }

  async #bind(alias: string, before: Generation | undefined, bound: Alias): Promise<LoraAdapterInfo> {
    if (this.#aliases.get(alias)?.generation !== before) {
      await this.#sweep();
      throw loraError(
        'generation_conflict',
        `adapter: ${JSON.stringify(alias)} was unloaded meanwhile; load it again`,
        {
          alias,
        },
      );
    }
    this.#aliases.set(alias, bound);
    await this.#sweep();
    return infoOf(alias, bound);
  }

  /** Puts a new generation on the device. Nothing of it is used before all of it is there. */
  async #place(id: string, alias: string, makePlan: () => AdapterPlan): Promise<Generation> {
    const plan = makePlan();
    this.#checkRoom(plan.bytes, alias);
    const { backend, codec } = this.#parts;
    const pairs = new Map<Weight, DevicePair>();
    const drop = async () => {
      for (const pair of pairs.values()) disposePair(pair);
    };
    try {
      for (const part of plan.weights) {
        const { weight } = part;
        const matrices = await guarded('format', alias, () => adapterMatrices(part, codec));
        const name = `${weight.name} of ${id.slice(0, 8)}`;
        await this.#between(async () => void pairs.set(weight, await devicePair(backend, name, part, matrices)));
      }
      return await this.#between(async () => {
        if (this.#disposed) throw loraError('load', 'adapter: the model was disposed while it was loaded', { alias });
        const generation = { id, serial: ++this.#serials, rank: plan.rank, bytes: plan.bytes, pairs, leases: 0 };
        for (const [weight, pair] of pairs) {
          const delta = (weight.delta as AdapterDelta | undefined) ?? new AdapterDelta(this.#parts.rows);
          delta.set(generation.serial, pair);
          weight.delta = delta;
        }
        this.#generations.set(id, generation);
        return generation;
      });
    } catch (error) {
      await this.#between(drop).catch(drop);
      throw error;
    }
  }

  #checkRoom(bytes: number, alias: string): void {
    const { maxAdapters, maxBytes } = this.limits;
    const resident = [...this.#generations.values()];
    if (resident.length >= maxAdapters) {
      throw loraError('adapter_limit', `adapter: expected at most ${maxAdapters} at a time; unload one`, { alias });
    }
    const total = resident.reduce((n, g) => n + g.bytes, bytes);
    if (total > maxBytes) {
      throw loraError('byte_limit', `adapter: expected at most ${maxBytes} bytes of all, got ${total}; unload one`, {
        alias,
      });
    }
  }

  /** Drops what no alias names and no request runs with. */
  async #sweep(): Promise<void> {
    const unused = (g: Generation) => g.leases === 0 && !this.#isNamed(g);
    if (this.#disposed || ![...this.#generations.values()].some(unused)) return;
    await this.#between(async () => {
      for (const g of [...this.#generations.values()]) if (unused(g)) this.#drop(g);
    });
  }

  #drop(generation: Generation): void {
    this.#generations.delete(generation.id);
    for (const [weight, pair] of generation.pairs) {
      const delta = weight.delta as AdapterDelta;
      delta.delete(generation.serial);
      if (delta.size === 0) weight.delta = undefined;
      disposePair(pair);
    }
  }
}

function infoOf(alias: string, { generation, source, revision }: Alias): LoraAdapterInfo {
  return {
    alias,
    source,
    ...(revision === undefined ? {} : { revision }),
    generation: generation.id,
    rank: generation.rank,
    bytes: generation.bytes,
  };
}

function limitsOf(given: Partial<LoraLimits>): LoraLimits {
  const limits = { ...DEFAULT_LORA_LIMITS };
  for (const key of Object.keys(limits) as (keyof LoraLimits)[]) {
    const value = given[key];
    if (value === undefined) continue;
    if (!Number.isSafeInteger(value) || value < 1) {
      throw loraError(
        'invalid_runtime_config',
        `adapter limits: ${key}: expected a whole number above 0, got ${value}`,
      );
    }
    (limits as Record<keyof LoraLimits, number>)[key] = value;
  }
  return limits;
}

function aliasOf(name: unknown): string {
  const alias = typeof name === 'string' ? name.trim() : '';
  if (alias === '')
    throw loraError('invalid_alias', `adapter: expected a name, got ${JSON.stringify(name) ?? 'nothing'}`);
  const bytes = new TextEncoder().encode(alias).length;
  if (bytes > MAX_ALIAS_BYTES) {
    throw loraError('alias_too_long', `adapter: expected a name of at most ${MAX_ALIAS_BYTES} bytes, got ${bytes}`);
  }
  return alias;
}

function checkPolicy(policy: unknown): void {
  if (policy === 'create' || policy === 'upsert') return;
  const generation = (policy as { compareAndSwap?: unknown } | null)?.compareAndSwap;
  if (typeof generation === 'string' && /^[0-9a-f]{64}$/i.test(generation)) return;
  const got = JSON.stringify(policy)?.slice(0, 100);
  throw loraError(
    'invalid_policy',
    `adapter: policy: expected "create", "upsert" or { compareAndSwap: a generation of 64 hexadecimal digits }, got ${got}`,
  );
}

function mismatch(alias: string, expected: string, got: string): never {
  throw loraError(
    'generation_mismatch',
    `adapter ${JSON.stringify(alias)}: expected generation ${expected}, got ${got}`,
    {
      alias,
      generation: got,
    },
  );
}

function same(a: string, b: string): boolean {
  return typeof a === 'string' && a.toLowerCase() === b;
}

function known(aliases: Iterable<string>): string {
  const list = [...aliases].slice(0, 5);
  return list.length > 0 ? `one of ${list.map((a) => JSON.stringify(a)).join(', ')}` : 'a loaded adapter';
}
