import type { RawSection } from '../core/backend.ts';
import { rowBytes } from '../core/dtype.ts';

/**
 * The sections of a matrix as they are kept: neighbours of one type become one section where no group of `group` rows
 * would straddle them (one command instead of several), and sections beyond `mostRows` rows are cut.
 */
export function arrange(
  sections: readonly RawSection[],
  columns: number,
  mostRows: number,
  group: number,
): readonly RawSection[] {
  const runs: RawSection[][] = [];
  for (const section of sections) {
    if (!section.rows) continue;
    const run = runs.at(-1);
    if (run && run[0]!.type === section.type && run.at(-1)!.rows % group === 0) run.push(section);
    else runs.push([section]);
  }
  return runs.flatMap((run) => cut(join(run, columns), mostRows));
}

function join(run: readonly RawSection[], columns: number): RawSection {
  const first = run[0]!;
  if (run.length === 1) return first;
  return {
    type: first.type,
    rows: run.reduce((n, s) => n + s.rows, 0),
    async readRows(start, rows, target) {
      const bytes = rowBytes(first.type, columns)!;
      let before = 0;
      for (const section of run) {
        const from = Math.max(0, start - before);
        const to = Math.min(section.rows, start + rows - before);
        if (from < to) {
          const at = (before + from - start) * bytes;
          await section.readRows(from, to - from, target.subarray(at, at + (to - from) * bytes));
        }
        before += section.rows;
      }
    },
  };
}

function cut(section: RawSection, mostRows: number): readonly RawSection[] {
  if (section.rows <= mostRows) return [section];
  return Array.from({ length: Math.ceil(section.rows / mostRows) }, (_, i) => ({
    type: section.type,
    rows: Math.min(mostRows, section.rows - i * mostRows),
    readRows: (first, rows, target) => section.readRows(i * mostRows + first, rows, target),
  }));
}
