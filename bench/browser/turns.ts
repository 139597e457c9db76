/** Engines in a page of Chromium, in turn, each run in a browser of its own. */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { chromiumPath } from '../../test/runtime/chromiumFlags.ts';
import { ISOLATED, serve } from '../../test/runtime/server.ts';
import { peakMemory } from '../peers/memory.ts';
import type { Row } from '../peers/report.ts';
import { startChromium } from './chromium.ts';

export interface Comparison {
  /** The repository, built. */
  readonly root: string;
  /** A GGUF file. */
  readonly model: string;
  readonly threads: readonly number[];
  readonly rounds: number;
  /** Repetitions within a run. */
  readonly reps: number;
  /** Tokens to generate, and tokens of a long prompt. */
  readonly decode: number;
  readonly prefill: number;
  /** Names of engines to run; all when absent. */
  readonly only?: readonly string[] | undefined;
  /** Measures on an adapter that computes on the processor, too. */
  readonly software: boolean;
  readonly chromiumFlags: readonly string[];
  /** Seconds after which a run counts as failed. */
  readonly timeout: number;
  /** Told of each row. */
  readonly onRow?: (row: BrowserRow) => void;
}

/** A run, or, with `error`, why there is none. */
export interface BrowserRow extends Row {
  readonly prompt_tokens?: number;
  /** What the engine says of itself, and the beginning of its answer. */
  readonly about?: string;
  readonly text?: string;
}

export interface Compared {
  readonly chromium: string;
  readonly adapter: Adapter | undefined;
  readonly rows: readonly BrowserRow[];
}

interface Adapter {
  readonly name: string;
  readonly software: boolean;
}

type Setting = number | 'webgpu';

const ENGINES = ['tramontane', 'wllama'] as const;
/** What WebGPU runs on where nothing else is there; without the flag Chromium keeps it back. */
const SOFTWARE_FLAGS = ['--use-webgpu-adapter=swiftshader'];
/** Words of the long prompts make about so many tokens. */
const TOKENS_PER_WORD = 1.2;
const CONTEXT = 1024;

/** Why nothing can be compared here; `undefined` when all is there. */
export function missing({ root, model }: Pick<Comparison, 'root' | 'model'>): string | undefined {
  if (chromiumPath() === undefined) return 'no Chromium here: install it, or set CHROMIUM to its path';
  if (!existsSync(join(root, 'dist/browser/index.js'))) return 'no build here: run `npm run build`';
  if (!existsSync(model)) return `model: expected a GGUF file, found none at ${model}`;
  const wanted = ['playwright-core', '@wllama/wllama'];
  const absent = wanted.filter((name) => !existsSync(join(root, 'bench/browser/node_modules', name)));
  return absent.length === 0
    ? undefined
    : `${absent.join(' and ')} not installed: run \`npm ci --prefix bench/browser\``;
}

export async function compare(comparison: Comparison, prompts: { short: string; long: string[] }): Promise<Compared> {
  const { root, model, threads, rounds, only } = comparison;
  const server = await serve({
    mounts: {
      page: join(root, 'bench/browser/page'),
      tramontane: join(root, 'dist/browser'),
      wllama: join(root, 'bench/browser/node_modules/@wllama/wllama/esm'),
      model: dirname(model),
    },
    headers: ISOLATED,
  });
  const words = Math.max(1, Math.round(comparison.prefill / TOKENS_PER_WORD));
  const task = {
    model: `/model/${basename(model)}`,
    short: prompts.short,
    long: prompts.long.map((text) => text.split(' ').slice(0, words).join(' ')),
    context: CONTEXT,
    reps: comparison.reps,
    decode: comparison.decode,
    ...(comparison.software ? { adapter: 'software' } : {}),
  };
  const open = () => openPage(comparison, server.origin);
  const rows: BrowserRow[] = [];
  const add = (row: BrowserRow) => {
    rows.push(row);
    comparison.onRow?.(row);
  };
  try {
    const probe = await open();
    const adapter = await probe.page.evaluate<Adapter | undefined>('probeAdapter()').finally(() => probe.kill());
    const noGpu = absence(adapter, comparison.software);
    for (let round = 0; round < rounds; round++) {
      for (const setting of [...threads, 'webgpu'] satisfies Setting[]) {
        for (const engine of ENGINES.filter((name) => only?.includes(name) ?? true)) {
          const skipped = setting === 'webgpu' ? noGpu : undefined;
          const row = { peer: engine, threads: setting, round, wall_s: 0, own_cores: 0 };
          if (skipped === undefined)
            add({ ...row, ...(await run(comparison, open, { ...task, engine, ...given(setting) })) });
          else if (round === 0) add({ ...row, error: `skipped: ${skipped}` });
        }
      }
    }
    return { chromium: probe.version, adapter, rows };
  } finally {
    await server.stop();
  }
}

const given = (setting: Setting) => (setting === 'webgpu' ? {} : { threads: setting });

function absence(adapter: Adapter | undefined, software: boolean): string | undefined {
  if (adapter === undefined) return 'Chromium offers no adapter';
  if (!adapter.software || software) return undefined;
  return `the only adapter computes on the processor (${adapter.name}); --software measures it all the same`;
}

async function openPage({ root, software, chromiumFlags }: Comparison, origin: string) {
  const flags = [...(software ? SOFTWARE_FLAGS : []), ...chromiumFlags];
  const chromium = await startChromium(join(root, 'bench/browser/package.json'), chromiumPath() ?? '', flags);
  await chromium.page.goto(`${origin}/page/page.html`);
  await chromium.page.waitForFunction('globalThis.runBench !== undefined');
  return chromium;
}

/** One browser, from its start to its end. */
async function run(
  { timeout }: Comparison,
  open: () => ReturnType<typeof openPage>,
  task: object,
): Promise<Partial<BrowserRow>> {
  const chromium = await open();
  const memory = peakMemory(chromium.pid);
  const started = performance.now();
  const timer = setTimeout(() => void chromium.kill(), timeout * 1000);
  let outcome: Partial<BrowserRow>;
  try {
    outcome = await chromium.page.evaluate<Partial<BrowserRow>>(`runBench(${JSON.stringify(task)})`);
  } catch (error) {
    const late = performance.now() - started >= timeout * 1000;
    outcome = { error: late ? `no result in ${timeout} s` : String(error).split('\n')[0] };
  }
  clearTimeout(timer);
  const { peakMb, cpuSeconds } = memory.stop();
  await chromium.kill();
  const wall_s = (performance.now() - started) / 1000;
  const row = { ...outcome, wall_s, own_cores: cpuSeconds / wall_s };
  return row.error === undefined ? { ...row, rss_mb: peakMb || undefined } : row;
}
