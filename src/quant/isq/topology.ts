/** Topology: a type (and device) for ranges of layers and for weights by name. */
import { ConfigError } from '../../core/errors.ts';
import { isRecord } from '../../core/schema.ts';
import { type IsqType, parseIsq } from './types.ts';

/** What one selector asks for. */
export interface TopologyEntry {
  readonly isq?: IsqType | undefined;
  readonly device?: string | undefined;
}

/** By selector: `0-8` (the end is exclusive), `5`, `/regular expression of weight names/`. */
export type TopologyInput = Readonly<Record<string, { readonly isq?: string | number; readonly device?: string }>>;

export interface Topology {
  /** The entry for a weight; `layer` is the number of its layer, if it is in one. */
  find(name: string, layer: number | undefined): TopologyEntry | undefined;
  /** Devices that any entry names. */
  readonly devices: ReadonlySet<string>;
}

const MAX_ENTRIES = 65536;
const MAX_LAYER = 1 << 20;
const MAX_PATTERN = 1000;

interface Range {
  readonly from: number;
  readonly to: number;
  readonly entry: TopologyEntry;
}

/**
 * Reads entries in the order they are declared. Regular expressions are tried first, the last match wins; of ranges, sorted by
 * their ends, the last that contains the layer. An entry wins as a whole.
 * @throws ConfigError that names the selector.
 */
export function topologyOf(input: unknown, where = 'topology'): Topology {
  const entries = input instanceof Map ? [...input] : isRecord(input) ? Object.entries(input) : undefined;
  if (!entries || entries.length > MAX_ENTRIES) {
    throw new ConfigError(`${where}: expected an object of layer ranges or /patterns/, got ${JSON.stringify(input)}`);
  }
  const ranges: Range[] = [];
  const patterns: { readonly pattern: RegExp; readonly entry: TopologyEntry }[] = [];
  const devices = new Set<string>();
  for (const [selector, value] of entries) {
    const at = `${where}: ${JSON.stringify(selector)}`;
    const entry = entryOf(value, at);
    if (entry.device !== undefined) devices.add(entry.device);
    if (/^\/.*\/$/s.test(selector)) patterns.push({ pattern: patternOf(selector.slice(1, -1), at), entry });
    else ranges.push({ ...rangeOf(selector, at), entry });
  }
  ranges.sort((a, b) => a.to - b.to);
  return {
    devices,
    find(name, layer) {
      const named = patterns.findLast((p) => p.pattern.test(name));
      if (named) return named.entry;
      if (layer === undefined) return undefined;
      return ranges.findLast((r) => r.from <= layer && layer < r.to)?.entry;
    },
  };
}

function entryOf(value: unknown, at: string): TopologyEntry {
  if (!isRecord(value)) throw new ConfigError(`${at}: expected isq and/or device, got ${JSON.stringify(value)}`);
  for (const name of Object.keys(value)) {
    if (name !== 'isq' && name !== 'device') throw new ConfigError(`${at}: expected isq and/or device, got "${name}"`);
  }
  const { isq, device } = value;
  if (device !== undefined && !(typeof device === 'string' && /^(cpu|(cuda|metal|webgpu)(\[\d+\])?)$/.test(device))) {
    throw new ConfigError(`${at}: device: expected cpu, cuda[n], metal[n] or webgpu[n], got ${JSON.stringify(device)}`);
  }
  return { isq: isq === undefined ? undefined : parseIsq(isq, `${at}: isq`), device };
}

function rangeOf(selector: string, at: string): { readonly from: number; readonly to: number } {
  const [, first = '', last] = /^(\d{1,7})(?:-(\d{1,7}))?$/.exec(selector) ?? [];
  if (first === '') throw new ConfigError(`${at}: expected a layer "n", a range "a-b" or a pattern "/…/"`);
  const from = Number(first);
  const to = last === undefined ? from + 1 : Number(last);
  if (to <= from || to > MAX_LAYER) throw new ConfigError(`${at}: expected an end above ${from}, got ${to}`);
  return { from, to };
}

function patternOf(text: string, at: string): RegExp {
  if (text.length > MAX_PATTERN) throw new ConfigError(`${at}: expected at most ${MAX_PATTERN} characters`);
  try {
    return new RegExp(text);
  } catch (cause) {
    throw new ConfigError(`${at}: expected a regular expression`, { cause });
  }
}

/**
 * Parses a topology file: JSON, or the part of YAML such files use (a selector and indented `isq:` and `device:` lines, or both
 * on one line in braces).
 * @throws ConfigError that names the line.
 */
export function parseTopology(text: string, where = 'topology'): Topology {
  if (text.trimStart().startsWith('{')) return topologyOf(parseJson(text, where), where);
  const entries = new Map<string, Record<string, string>>();
  let current: Record<string, string> | undefined;
  text.split(/\r?\n/).forEach((raw, i) => {
    const line = raw.replace(/(^|\s)#.*$/, '').trimEnd();
    if (line.trim() === '' || line === '---') return;
    const at = `${where}: line ${i + 1}`;
    const inner = /^\s+(\w+)\s*:\s*(.+)$/.exec(line);
    if (inner) {
      if (!current) throw new ConfigError(`${at}: expected a selector before "${line.trim()}"`);
      current[inner[1]!] = unquoted(inner[2]!);
      return;
    }
    const outer = /^("(?:[^"\\]|\\.)*"|'[^']*'|[^\s'"][^:]*?|\/.*\/)\s*:\s*(\{.*\})?$/.exec(line);
    if (!outer) throw new ConfigError(`${at}: expected "selector:" or an indented "isq: type", got "${line}"`);
    const selector = unquoted(outer[1]!);
    if (entries.has(selector)) throw new ConfigError(`${at}: expected each selector once, got "${selector}" again`);
    current = outer[2] === undefined ? {} : inline(outer[2], at);
    entries.set(selector, current);
  });
  return topologyOf(entries, where);
}

function inline(text: string, at: string): Record<string, string> {
  const out: Record<string, string> = {};
  for (const part of text.slice(1, -1).split(',')) {
    if (part.trim() === '') continue;
    const [, name, value] = /^\s*(\w+)\s*:\s*(.+?)\s*$/.exec(part) ?? [];
    if (name === undefined) throw new ConfigError(`${at}: expected "isq: type" in braces, got "${part.trim()}"`);
    out[name] = unquoted(value!);
  }
  return out;
}

function unquoted(text: string): string {
  const value = text.trim();
  if (/^'.*'$/.test(value)) return value.slice(1, -1);
  if (!/^".*"$/.test(value)) return value;
  return value.slice(1, -1).replace(/\\(["\\/])/g, '$1');
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ConfigError(`${where}: expected JSON`, { cause });
  }
}
