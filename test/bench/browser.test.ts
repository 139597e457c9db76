/** The comparison in a browser, with counts that are too small to measure anything. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { type BrowserRow, compare, missing } from '../../bench/browser/turns.ts';
import { summarize, table } from '../../bench/peers/report.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const model = fileURLToPath(new URL('../../models/smollm2-135m-instruct-q4_1.gguf', import.meta.url));
const prompts = JSON.parse(readFileSync(new URL('../../bench/peers/prompts.json', import.meta.url), 'utf8'));

it('engines answer alike in the browser, and what cannot run says why', { timeout: 600_000 }, async (context) => {
  const reason = missing({ root, model });
  if (reason !== undefined) return context.skip(reason);
  const seen: BrowserRow[] = [];
  const { rows, adapter } = await compare(
    {
      ...{ root, model, threads: [1], rounds: 1, reps: 1, decode: 4, prefill: 8, software: false },
      ...{ chromiumFlags: [], timeout: 280, onRow: (row) => seen.push(row) },
    },
    prompts,
  );
  expect(seen).toEqual(rows);
  expect(rows.map((r) => `${r.threads} ${r.peer}`)).toEqual([
    ...['1 tramontane', '1 wllama', 'webgpu tramontane', 'webgpu wllama'],
  ]);
  const [ours, theirs] = rows.filter((r) => r.threads === 1);
  for (const row of [ours, theirs]) {
    expect(row?.error).toBeUndefined();
    expect(Math.min(row?.load_s ?? 0, row?.ttft_s ?? 0, row?.decode_tps ?? 0, row?.prefill_tps ?? 0)).toBeGreaterThan(
      0,
    );
    expect(row?.ttft_s).toBeGreaterThan(row?.load_s ?? Number.NaN);
  }
  expect(ours?.text?.length).toBeGreaterThan(3);
  expect(ours?.text).toBe(theirs?.text);
  expect(ours?.prompt_tokens).toBe(theirs?.prompt_tokens);
  if (adapter === undefined || adapter.software) expect(rows[2]?.error).toMatch(/^skipped: .*adapter/);
  expect(table(summarize(rows, 'wllama')).split('\n')).toHaveLength(6);
});
