/** `uqff_report.json`: what the sets of a folder of UQFF files are, and which files belong to each. */
import { FormatError } from '../errors.ts';
import * as s from '../schema.ts';
import { parseJson } from './json.ts';
import { isSafeFileName } from './path.ts';

export const UQFF_REPORT = 'uqff_report.json';
/** About 300 bytes for each module of each set. */
export const MAX_REPORT_BYTES = 64_000_000;
const SCHEMA = 1;

const fallback = s.object({
  module: s.string,
  from: s.string,
  to: s.string,
  shape: s.array(s.index),
  reason: s.optional(s.string),
});
const layer = s.object({
  module: s.string,
  default_target: s.optional(s.string),
  resolved_target: s.optional(s.string),
  stored: s.string,
  shape: s.array(s.index),
});
const output = s.object({
  quant: s.string,
  shards: s.array(s.string),
  layers: s.index,
  actual_counts: counts(),
  fallback_count: s.index,
  fallbacks: s.or(s.array(fallback), []),
  layer_details: s.or(s.array(layer), []),
});
const report = s.object({
  schema: s.index,
  generated_by: s.object({
    tool: s.string,
    mistralrs_version: s.optional(s.string),
    git_revision: s.optional(s.string),
  }),
  base_model: s.optional(s.string),
  repo_id: s.optional(s.string),
  uqff_version: s.string,
  outputs: s.array(output),
});

export type UqffReport = s.Infer<typeof report>;
export type UqffOutput = s.Infer<typeof output>;
export type UqffLayer = s.Infer<typeof layer>;

function counts(): s.Schema<Readonly<Record<string, number>>> {
  return {
    parse(value, path) {
      if (!s.isRecord(value)) throw s.configError(path, 'an object of counts', value);
      for (const [key, n] of Object.entries(value)) s.index.parse(n, `${path}.${key}`);
      return value as Record<string, number>;
    },
  };
}

/**
 * Parses and checks a report: sets have names of their own, and files of their own that are there.
 * @throws FormatError
 */
export function parseUqffReport(text: string, where: string, available: Iterable<string>): UqffReport {
  const wrong = (what: string): FormatError =>
    new FormatError(`${where}: ${what}; write the files again, or remove it`);
  let parsed: UqffReport;
  try {
    parsed = report.parse(parseJson(text, { name: where }), '');
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw wrong(error instanceof Error ? error.message : String(error));
  }
  if (parsed.schema !== SCHEMA) throw wrong(`schema: expected ${SCHEMA}, got ${parsed.schema}`);
  if (parsed.outputs.length === 0) throw wrong('outputs: expected at least one, got none');
  const files = new Set(available);
  const quants = new Set<string>();
  const owners = new Map<string, string>();
  for (const { quant, shards } of parsed.outputs) {
    const key = quant.trim().toLowerCase();
    if (key === '' || quants.has(key)) throw wrong(`outputs: expected different names, got ${JSON.stringify(quant)}`);
    quants.add(key);
    if (shards.length === 0) throw wrong(`outputs: ${quant}: expected files, got none`);
    for (const shard of shards) {
      const owner = owners.get(shard);
      if (owner !== undefined) throw wrong(`${shard}: expected in one output, found in ${owner} and ${quant}`);
      if (!isSafeFileName(shard)) throw wrong(`expected names of files beside it, got ${JSON.stringify(shard)}`);
      if (!files.has(shard)) throw wrong(`outputs: ${quant}: expected the file ${shard}, which is missing`);
      owners.set(shard, quant);
    }
  }
  return parsed;
}
