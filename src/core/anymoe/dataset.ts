/** What gates are trained on: prompts and the expert that each should go to. */
import { FormatError, UnsupportedError } from '../errors.ts';
import { parseJson } from '../io/json.ts';
import * as s from '../schema.ts';
import { parseCsv } from './csv.ts';

export const MAX_DATASET_BYTES = 64 * 2 ** 20;
const MAX_ROWS = 100_000;

export interface GatePrompt {
  readonly prompt: string;
  readonly expert: number;
}

/**
 * Reads CSV (the columns `prompt` and `expert`) where the file's name ends so, else JSON (`{ rows: [{ prompt, expert }] }`).
 * Throws `FormatError`, or `ConfigError` naming a bad value; `UnsupportedError` for rows with images.
 */
export function parseDataset(text: string, name: string, experts: number): readonly GatePrompt[] {
  const csv = name.toLowerCase().endsWith('.csv');
  const rows = csv ? csvRows(text, name) : jsonRows(text, name);
  if (rows.length < 1 || rows.length > MAX_ROWS) {
    throw new FormatError(`${name}: expected 1 to ${MAX_ROWS} rows, got ${rows.length}`);
  }
  return rows.map((row, i) => rowOf(row, `${name}: row ${i + 1}`, experts));
}

function jsonRows(text: string, name: string): readonly unknown[] {
  const raw = parseJson(text, { name, maxValues: 8 * MAX_ROWS });
  const rows = s.isRecord(raw) ? raw['rows'] : raw;
  if (Array.isArray(rows)) return rows;
  throw new FormatError(`${name}: expected { rows: [{ prompt, expert }] }, got ${JSON.stringify(raw)?.slice(0, 60)}`);
}

function csvRows(text: string, name: string): readonly unknown[] {
  const [head = [], ...rows] = parseCsv(text, name, MAX_ROWS + 1);
  for (const column of ['prompt', 'expert']) {
    if (!head.includes(column))
      throw new FormatError(`${name}: expected a column ${column}, got ${head.slice(0, 8).join(', ')}`);
  }
  return rows.map((cells, i) => {
    if (cells.length !== head.length) {
      throw new FormatError(`${name}: row ${i + 1}: expected ${head.length} cells, got ${cells.length}`);
    }
    const row = Object.fromEntries(head.map((column, c) => [column, cells[c]!]));
    const expert = /^\d{1,9}$/.test(row['expert']!) ? Number(row['expert']) : row['expert'];
    return { ...row, expert };
  });
}

function rowOf(raw: unknown, at: string, experts: number): GatePrompt {
  const row = s.isRecord(raw) ? raw : {};
  const images = row['image_urls'] ?? row['imageUrls'];
  if (!(images === undefined || images === null || images === '' || (Array.isArray(images) && images.length === 0))) {
    throw new UnsupportedError(`${at}: expected prompts of text, got images; remove image_urls`, {
      feature: 'image_urls',
    });
  }
  const { prompt, expert } = row;
  if (typeof prompt !== 'string' || prompt === '') throw s.configError(`${at}: prompt`, 'a text', prompt);
  if (!Number.isInteger(expert) || (expert as number) < 0 || (expert as number) >= experts) {
    throw s.configError(`${at}: expert`, `a number from 0 (the model itself) to ${experts - 1}`, expert);
  }
  return { prompt, expert: expert as number };
}
