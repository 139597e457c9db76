/** The matrix runtime × back-end × outcome: a line for each cell, written by the tests, printed at the end. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { TestContext } from 'vitest';
import type { BackendInfo } from '../../src/core/backend.ts';
import type { BackendName } from './app.ts';

const folder = fileURLToPath(new URL('../../.cache/runtimes/', import.meta.url));
const file = `${folder}matrix.jsonl`;

interface Cell {
  readonly runtime: string;
  readonly backend: BackendName;
  readonly outcome: 'passed' | 'skipped' | 'failed';
  readonly detail: string;
}

/** What a run of the smoke suite reports. */
export type SmokeResult =
  | { readonly passed: readonly string[]; readonly backend: BackendInfo }
  | { readonly skipped: string }
  | { readonly failed: string };

export function clearMatrix(): void {
  rmSync(file, { force: true });
}

/** Runs one cell and writes down its outcome. `run` gives a reason where the runtime is absent. */
export async function cell(
  context: TestContext,
  runtime: string,
  backend: BackendName,
  run: () => Promise<SmokeResult>,
): Promise<void> {
  const result = await run().catch((error: unknown) => ({ failed: String(error) }));
  const note = (outcome: Cell['outcome'], detail: string): void => {
    mkdirSync(folder, { recursive: true });
    appendFileSync(file, `${JSON.stringify({ runtime, backend, outcome, detail } satisfies Cell)}\n`);
  };
  if ('failed' in result) {
    note('failed', result.failed.split('\n')[0] ?? '');
    throw new Error(result.failed);
  }
  if ('skipped' in result) {
    note('skipped', result.skipped);
    context.skip(result.skipped);
    return;
  }
  const { threads, simd } = result.backend;
  const on = backend === 'cpu' ? `${simd}, ${threads === 1 ? 'one thread' : `${threads} threads`}` : simd;
  note('passed', `${result.passed.join(', ')}; ${on}`);
}

/** Prints all cells as a table, and how many there are of each kind. */
export function printMatrix(): void {
  if (!existsSync(file)) return;
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  const cells = lines.map((line) => JSON.parse(line) as Cell);
  const width = (key: 'runtime' | 'backend') => Math.max(...cells.map((c) => c[key].length), key.length);
  const row = (runtime: string, backend: string, rest: string) =>
    console.log(`${runtime.padEnd(width('runtime'))}  ${backend.padEnd(width('backend'))}  ${rest}`);
  console.log('\nRuntimes and back-ends');
  for (const c of cells) row(c.runtime, c.backend, `${c.outcome}: ${c.detail}`);
  const count = (outcome: Cell['outcome']) => cells.filter((c) => c.outcome === outcome).length;
  console.log(`\nmatrix: ${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`);
}
