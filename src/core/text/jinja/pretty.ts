/** Values over several lines where one of 80 columns does not hold them, as Python's `pprint` does. */
import { compareText, SPACE, splitLines } from './characters.ts';
import { order } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault } from './fault.ts';
import { repr } from './show.ts';
import type { Value } from './values.ts';
import { Dict, isList, Tuple, typeName } from './values.ts';

const WIDTH = 80;
const MAX_DEPTH = 128;
/** A value within others is copied and shown once for every one around it. */
const STEPS_PER_VALUE = 32;
/** Words with the space behind them. */
const PARTS = new RegExp(`[^${SPACE}]*[${SPACE}]*`, 'g');

/** `pformat(value)`. */
export function pretty(value: Value, budget: Budget): string {
  return shaped(value, 0, 0, 1, budget);
}

/** `indent` columns stand before the value, `behind` characters follow on its last line. */
function shaped(value: Value, indent: number, behind: number, depth: number, budget: Budget): string {
  if (depth > MAX_DEPTH) throw new Fault(`pprint: expected values nested at most ${MAX_DEPTH} deep`);
  const flat = repr(byKey(value, budget), budget);
  const room = WIDTH - indent - behind;
  if (flat.length <= room) return flat;
  if (typeof value === 'string') return shapedText(value, indent, room, depth, budget);
  if (isList(value)) return `[${lines(value, indent + 1, behind + 1, depth, budget)}]`;
  if (value instanceof Tuple) {
    const close = value.items.length === 1 ? ',)' : ')';
    return `(${lines(value.items, indent + 1, behind + close.length, depth, budget)}${close}`;
  }
  if (!(value instanceof Dict)) return flat;
  const entries = [...value.items()].sort(([a], [b]) => orderAny(a, b, budget));
  const rows = entries.map(([key, item], i) => {
    const head = `${repr(key, budget)}: `;
    const after = i === entries.length - 1 ? behind + 1 : 1;
    return head + shaped(item, indent + 1 + head.length, after, depth + 1, budget);
  });
  return `{${rows.join(`,\n${' '.repeat(indent + 1)}`)}}`;
}

function lines(items: readonly Value[], indent: number, behind: number, depth: number, budget: Budget): string {
  const rows = items.map((item, i) => shaped(item, indent, i === items.length - 1 ? behind : 1, depth + 1, budget));
  return rows.join(`,\n${' '.repeat(indent)}`);
}

/** A long text as several in a row: by lines, and within them by words. */
function shapedText(text: string, indent: number, room: number, depth: number, budget: Budget): string {
  if (text === '') return "''";
  const [from, wide] = depth === 1 ? [indent + 1, room - 2] : [indent, room];
  const pieces = splitLines(text, true);
  const rows: string[] = [];
  pieces.forEach((line, i) => {
    const limit = i === pieces.length - 1 ? wide : WIDTH - from;
    if (repr(line, budget).length <= limit) {
      rows.push(repr(line, budget));
      return;
    }
    let current = '';
    const parts = (line.match(PARTS) ?? []).filter((part) => part !== '');
    parts.forEach((part, j) => {
      const bound = j === parts.length - 1 ? limit : WIDTH - from;
      if (repr(current + part, budget).length > bound) {
        if (current !== '') rows.push(repr(current, budget));
        current = part;
      } else {
        current += part;
      }
    });
    if (current !== '') rows.push(repr(current, budget));
  });
  if (rows.length === 1) return rows[0] as string;
  const joined = rows.join(`\n${' '.repeat(from)}`);
  return depth === 1 ? `(${joined})` : joined;
}

/** Dictionaries within, sorted by their keys. */
function byKey(value: Value, budget: Budget): Value {
  budget.step(STEPS_PER_VALUE);
  if (isList(value)) return value.map((item) => byKey(item, budget));
  if (value instanceof Tuple) return new Tuple(value.items.map((item) => byKey(item, budget)));
  if (!(value instanceof Dict)) return value;
  const sorted = new Dict();
  const entries = [...value.entries()].sort(([, [a]], [, [b]]) => orderAny(a, b, budget));
  for (const [key, [name, item]] of entries) sorted.set(key, name, byKey(item, budget));
  return sorted;
}

/** Keys of kinds that have no order between them go by the names of their kinds. */
function orderAny(a: Value, b: Value, budget: Budget): number {
  try {
    return order(a, b, '<', budget);
  } catch (error) {
    if (!(error instanceof Fault && error.recoverable)) throw error;
    return compareText(typeName(a), typeName(b));
  }
}
