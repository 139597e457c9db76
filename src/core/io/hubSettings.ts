/** Where the hub is, where its cache lies, and who asks: the environment variables of `huggingface_hub`. */
import { ConfigError } from '../errors.ts';
import type { Platform } from '../platform.ts';
import { joinPath } from './path.ts';

const DEFAULT_ENDPOINT = 'https://huggingface.co';
/** Tokens have 37 characters. */
const MAX_TOKEN_BYTES = 4096;

/**
 * Where the access token comes from: `cache` (HF_TOKEN, HF_HUB_TOKEN, then the file that `login` wrote), `env:NAME` (`env`
 * alone: HUGGING_FACE_HUB_TOKEN), `path:FILE`, `literal:TOKEN` or `none`.
 */
export type TokenSource = 'cache' | 'none' | 'env' | `env:${string}` | `path:${string}` | `literal:${string}`;

export interface HubSettings {
  readonly endpoint: string;
  readonly offline: boolean;
  /** Folder of the cached repositories; `undefined` on platforms without files. */
  readonly cacheDir: string | undefined;
}

/** Settings from the environment; explicit values come first. */
export function hubSettings(
  platform: Platform,
  explicit: {
    readonly endpoint?: string | undefined;
    readonly cacheDir?: string | undefined;
    readonly offline?: boolean | undefined;
  } = {},
): HubSettings {
  const endpoint = (explicit.endpoint ?? variable(platform, 'HF_ENDPOINT') ?? DEFAULT_ENDPOINT).replace(/\/+$/, '');
  const offline = explicit.offline ?? (isOn(platform, 'HF_HUB_OFFLINE') || isOn(platform, 'TRANSFORMERS_OFFLINE'));
  if (!platform.hasFiles) return { endpoint, offline, cacheDir: undefined };
  const cacheDir =
    explicit.cacheDir ??
    variable(platform, 'HF_HUB_CACHE') ??
    variable(platform, 'HUGGINGFACE_HUB_CACHE') ??
    joinPath(hubHome(platform), 'hub');
  return { endpoint, offline, cacheDir: expandHome(platform, cacheDir) };
}

/** The token of a source; `undefined` for none. Throws `ConfigError` when a source that was asked for holds nothing. */
export async function hubToken(platform: Platform, source: TokenSource = 'cache'): Promise<string | undefined> {
  if (source === 'none') return undefined;
  if (source === 'cache') {
    const set = variable(platform, 'HF_TOKEN') ?? variable(platform, 'HF_HUB_TOKEN');
    return set?.trim() ?? (platform.hasFiles ? savedToken(platform) : undefined);
  }
  const colon = source.indexOf(':');
  const kind = colon < 0 ? source : source.slice(0, colon);
  const rest = colon < 0 ? '' : source.slice(colon + 1);
  if (kind === 'literal') return present(rest, 'literal: expected a token after the colon');
  if (kind === 'path') {
    const path = expandHome(platform, rest);
    return present(await platform.readText(path, MAX_TOKEN_BYTES), `${path}: expected a token in the file`);
  }
  if (kind === 'env') {
    const name = rest === '' ? 'HUGGING_FACE_HUB_TOKEN' : rest;
    return present(variable(platform, name) ?? '', `env: expected the variable ${name} to hold a token`);
  }
  throw new ConfigError(`token source: expected cache, none, env[:NAME], path:FILE or literal:TOKEN, got ${kind}`);
}

async function savedToken(platform: Platform): Promise<string | undefined> {
  const path = expandHome(platform, variable(platform, 'HF_TOKEN_PATH') ?? joinPath(hubHome(platform), 'token'));
  if (!(await platform.exists(path))) return undefined;
  const token = (await platform.readText(path, MAX_TOKEN_BYTES)).trim();
  return token === '' ? undefined : token;
}

function hubHome(platform: Platform): string {
  const set = variable(platform, 'HF_HOME');
  if (set !== undefined) return set;
  const cache = variable(platform, 'XDG_CACHE_HOME') ?? '~/.cache';
  return joinPath(cache, 'huggingface');
}

/** A leading `~` is the home folder. */
export function expandHome(platform: Platform, path: string): string {
  if (path !== '~' && !path.startsWith('~/')) return path;
  const home = platform.homeDir();
  if (home === undefined) throw new ConfigError(`${path}: expected a home folder, this account has none; set HF_HOME`);
  return joinPath(home, path.slice(2));
}

/** An empty variable counts as not set. */
function variable(platform: Platform, name: string): string | undefined {
  const value = platform.env(name);
  return value === undefined || value.trim() === '' ? undefined : value;
}

function isOn(platform: Platform, name: string): boolean {
  return /^(1|on|yes|true)$/i.test(variable(platform, name)?.trim() ?? '');
}

function present(token: string, message: string): string {
  const trimmed = token.trim();
  if (trimmed === '') throw new ConfigError(`token source ${message}`);
  return trimmed;
}
