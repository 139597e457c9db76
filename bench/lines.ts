/** Prints how many lines the architectures take, against their budget. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** All architectures together, with the blocks they are made of. */
export const TOTAL_LINES = 6000;
/** One file of `src/models/text`. */
export const FILE_LINES = 150;

export interface Part {
  readonly name: string;
  /** Lines by file, the longest first. */
  readonly files: readonly { readonly name: string; readonly lines: number }[];
  readonly lines: number;
}

/** The parts of `src/models`: every folder, and the files beside them. */
export function modelParts(root = 'src/models'): readonly Part[] {
  const entries = readdirSync(root, { withFileTypes: true });
  const part = (name: string, folder: string): Part => {
    const files = readdirSync(folder, { withFileTypes: true })
      .filter((e) => e.isFile() && e.name.endsWith('.ts'))
      .map((e) => ({ name: e.name, lines: readFileSync(join(folder, e.name), 'utf8').trimEnd().split('\n').length }))
      .sort((a, b) => b.lines - a.lines);
    return { name, files, lines: files.reduce((n, f) => n + f.lines, 0) };
  };
  const folders = entries.filter((e) => e.isDirectory()).map((e) => part(e.name, join(root, e.name)));
  return [part('shared', root), ...folders];
}

function print(): void {
  const parts = modelParts();
  const row = (name: string, lines: number, files: number | string, longest: string) =>
    console.log(name.padEnd(12), String(lines).padStart(6), String(files).padStart(6), ` ${longest}`);
  console.log('part'.padEnd(12), 'lines'.padStart(6), 'files'.padStart(6), ' longest');
  for (const { name, files, lines } of parts) {
    row(name, lines, files.length, files[0] ? `${files[0].name} ${files[0].lines}` : '');
  }
  const total = parts.reduce((n, p) => n + p.lines, 0);
  row(
    'total',
    total,
    parts.reduce((n, p) => n + p.files.length, 0),
    `of ${TOTAL_LINES}, ${FILE_LINES} a text file`,
  );
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) print();
