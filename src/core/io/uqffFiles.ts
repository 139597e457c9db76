/** Which UQFF files belong together, and which of several sets is meant. */
import { ModelLoadError } from '../errors.ts';
import type { UqffReport } from './uqffReport.ts';

const SHARD = /^(.*)-(\d{1,9})\.uqff$/;

/** A set as a user names it: a file, or a type that stands for one of several first files. */
export interface UqffChoice {
  readonly name: string;
  /** Stems that the name may stand for, the preferred one first. */
  readonly stems: readonly string[];
}

/** `out-3.uqff` → `out`; `undefined` for other names. */
export function stemOf(file: string): string | undefined {
  return SHARD.exec(file)?.[1];
}

/** The files of the set that `choice` names, in order. */
export function chosenSet(
  choice: UqffChoice,
  available: readonly string[],
  report: UqffReport | undefined,
  where: string,
): readonly string[] {
  const { name, stems } = choice;
  const outputs = report?.outputs ?? [];
  const quants = [name, ...stems].map((n) => n.toLowerCase());
  const reported =
    outputs.find((o) => o.shards.includes(name)) ??
    quants.map((q) => outputs.find((o) => o.quant.toLowerCase() === q)).find((o) => o !== undefined);
  if (reported) return reported.shards;
  const first = [name, ...stems.map((stem) => `${stem}-0.uqff`)].find((file) => available.includes(file));
  if (first !== undefined) return siblings(first, available, where);
  const sets = uqffSets(available, report, where).map((set) => set[0]);
  throw new ModelLoadError(
    `${where}: expected UQFF files of ${JSON.stringify(name)}, found none; it has: ${sets.join(', ') || 'no UQFF files'}`,
  );
}

/** Every set of a folder. */
export function uqffSets(
  available: readonly string[],
  report: UqffReport | undefined,
  where: string,
): readonly (readonly string[])[] {
  const sets: (readonly string[])[] = (report?.outputs ?? []).map((o) => o.shards);
  const seen = new Set(sets.flat());
  for (const file of available) {
    if (!file.endsWith('.uqff') || seen.has(file)) continue;
    const set = siblings(file, available, where);
    for (const name of [file, ...set]) seen.add(name);
    sets.push(set);
  }
  return sets;
}

/** Files of one stem, numbered from 0 without a gap, whichever of them is given. */
function siblings(file: string, available: readonly string[], where: string): readonly string[] {
  const stem = stemOf(file);
  if (stem === undefined) return [file];
  const numbers = new Set(
    available.filter((name) => stemOf(name) === stem).map((name) => Number(SHARD.exec(name)?.[2])),
  );
  const set: string[] = [];
  while (numbers.has(set.length)) set.push(`${stem}-${set.length}.uqff`);
  if (set.length === 0) return [file];
  if (numbers.size > set.length) {
    throw new ModelLoadError(
      `${where}: expected ${stem}-0.uqff to ${stem}-${Math.max(...numbers)}.uqff, ${stem}-${set.length}.uqff is missing; the download is incomplete`,
    );
  }
  return set.every((name) => available.includes(name)) ? set : [file];
}
