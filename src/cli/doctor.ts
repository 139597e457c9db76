/** `tramontane doctor`: what this machine offers, and what stands in the way. */
import { arch, cpus, platform as osName, release } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { messageOf, UnsupportedError } from '../core/errors.ts';
import { dirName, joinPath } from '../core/io/path.ts';
import type { Platform } from '../core/platform.ts';
import { type BackendInfo, type BackendName, createBackend, detectPlatform, hubSettings } from '../entry-core.ts';
import { megabytes, table } from './terminal.ts';
import { commit, packageVersion } from './version.ts';

export type CheckStatus = 'ok' | 'warn' | 'error';

export interface Check {
  readonly name: string;
  readonly status: CheckStatus;
  readonly message: string;
  /** What to do about it. */
  readonly suggestion?: string;
}

/** Milliseconds to wait for the hub. */
const HUB_PATIENCE_MS = 4000;

/** Prints all checks; the exit status is 1 when one of them failed. */
export async function doctor(flags: { readonly json?: boolean; readonly offline?: boolean }): Promise<number> {
  const platform = await detectPlatform();
  // First: the back-end may switch on what an older runtime has, but hides.
  const cpu = await cpuCheck();
  const checks = [
    runtimeCheck(platform),
    machineCheck(platform),
    ...wasmChecks(),
    threadsCheck(platform),
    cpu,
    await gpuCheck(),
    await cacheCheck(platform),
    await hubCheck(platform, flags.offline === true),
  ];
  if (flags.json) {
    process.stdout.write(`${JSON.stringify({ version: packageVersion, commit, checks })}\n`);
  } else {
    const rows = checks.map((c) => [c.status, c.name, c.suggestion ? `${c.message}; ${c.suggestion}` : c.message]);
    process.stdout.write(`tramontane ${packageVersion} (${commit})\n${table(rows)}\n`);
  }
  return checks.some((c) => c.status === 'error') ? 1 : 0;
}

function runtimeCheck(platform: Platform): Check {
  const { runtime } = platform;
  // Bun claims a V8 as well, for programs that ask; its engine is WebKit's.
  const [engine, version] = runtime === 'bun' ? ['WebKit', process.versions['webkit']] : ['V8', process.versions['v8']];
  return {
    name: 'runtime',
    status: 'ok',
    message: `${runtime} ${process.versions[runtime] ?? process.version}, ${engine} ${version ?? '-'}`,
  };
}

function machineCheck(platform: Platform): Check {
  const { totalBytes, freeBytes } = platform.memory();
  const memory = totalBytes === undefined ? 'unknown memory' : `${megabytes(totalBytes)} MB memory`;
  const free = freeBytes === undefined ? '' : `, ${megabytes(freeBytes)} MB free`;
  const model = cpus()[0]?.model.trim() || 'unknown processor';
  return { name: 'machine', status: 'ok', message: `${osName()} ${release()} ${arch()}, ${model}, ${memory}${free}` };
}

/** The smallest modules that use a feature; `WebAssembly.validate` says whether the engine knows it. */
const WASM_PROBES = {
  // (func (result v128) i32.const 0 i8x16.splat)
  SIMD: [1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11],
  // (func (result v128) i32.const 0 i8x16.splat twice, i8x16.relaxed_swizzle)
  'relaxed SIMD': [
    1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 0, 253, 15, 65, 0, 253, 15, 253, 128, 2, 11,
  ],
  // (memory i64 1)
  memory64: [5, 3, 1, 4, 1],
} as const;
const WASM_HEAD = [0, 97, 115, 109, 1, 0, 0, 0];

function wasmChecks(): Check[] {
  return Object.entries(WASM_PROBES).map(([name, body]) => {
    const has = WebAssembly.validate(Uint8Array.from([...WASM_HEAD, ...body]));
    const needed = name === 'SIMD';
    return {
      name: `WASM ${name}`,
      status: has || !needed ? 'ok' : 'warn',
      message: has ? 'yes' : 'no',
      ...(needed && !has
        ? { suggestion: 'kernels run as plain TypeScript, many times slower; use a newer runtime' }
        : {}),
    };
  });
}

function threadsCheck(platform: Platform): Check {
  const shared = typeof SharedArrayBuffer !== 'undefined';
  const message = `${platform.hardwareConcurrency()} processors, shared memory ${shared ? 'yes' : 'no'}`;
  return {
    name: 'threads',
    status: shared ? 'ok' : 'warn',
    message: isMainThread ? message : `${message} (in a worker)`,
    ...(shared ? {} : { suggestion: 'without shared memory one thread computes' }),
  };
}

async function cpuCheck(): Promise<Check> {
  const name = 'CPU back-end';
  try {
    const { simd, threads, reason } = await infoOf('cpu');
    return { name, status: 'ok', message: `${simd}, ${threads} threads: ${reason}` };
  } catch (error) {
    return { name, status: 'error', message: messageOf(error) };
  }
}

async function gpuCheck(): Promise<Check> {
  const name = 'WebGPU';
  try {
    const { simd, reason } = await infoOf('webgpu');
    return { name, status: 'ok', message: `${simd}: ${reason}` };
  } catch (error) {
    // Nobody has to have one.
    return { name, status: error instanceof UnsupportedError ? 'ok' : 'warn', message: messageOf(error) };
  }
}

async function infoOf(name: BackendName): Promise<BackendInfo> {
  const backend = await createBackend(name);
  await backend.dispose();
  return backend.info;
}

async function cacheCheck(platform: Platform): Promise<Check> {
  const name = 'hub cache';
  const { cacheDir } = hubSettings(platform);
  if (cacheDir === undefined) return { name, status: 'warn', message: 'none in this runtime' };
  const probe = joinPath(cacheDir, `.tramontane-${Date.now()}`);
  const made = !(await platform.exists(cacheDir)) && !(await platform.exists(dirName(cacheDir)));
  if (made) return { name, status: 'ok', message: `${cacheDir} (made by the first download)` };
  try {
    await platform.writeFile(probe, 'x');
    await platform.remove(probe);
    return { name, status: 'ok', message: `${cacheDir}, writable` };
  } catch (error) {
    return {
      name,
      status: 'error',
      message: messageOf(error),
      suggestion: 'set HF_HUB_CACHE to a folder you may write',
    };
  }
}

async function hubCheck(platform: Platform, offline: boolean): Promise<Check> {
  const name = 'hub';
  const settings = hubSettings(platform);
  if (offline || settings.offline) return { name, status: 'ok', message: 'not asked (offline)' };
  try {
    const response = await fetch(settings.endpoint, { method: 'HEAD', signal: AbortSignal.timeout(HUB_PATIENCE_MS) });
    return { name, status: 'ok', message: `${settings.endpoint} answers (${response.status})` };
  } catch (error) {
    return {
      name,
      status: 'warn',
      message: `${settings.endpoint}: ${messageOf(error)}`,
      suggestion: 'models on disk work all the same',
    };
  }
}
