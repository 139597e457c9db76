/** Runtimes that withhold something: shared memory, workers, WebAssembly, a whole download. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { APP, badNetworkTask, continuationTask, MOUNTS, taskOf } from './app.ts';
import { BUNDLES, bundlers, freshFolder } from './bundlers.ts';
import { type Browser, startChromium } from './chromium.ts';
import type { SmokeResult } from './matrix.ts';
import { smokeInPage } from './page.ts';
import { NOT_INSTALLED, resultOf, serverRuntimes } from './runtimes.ts';
import { type FileServer, ISOLATED, serve } from './server.ts';

const MEGABYTE = 2 ** 20;
/** A page without inline scripts, so that a content policy may forbid them. */
const BUNDLE = 'bad-input';
const PAGE = `/bundles/${BUNDLE}/bundled.html`;
const mounts = { ...MOUNTS, bundles: BUNDLES };

let browser: Browser | string;
beforeAll(async () => {
  browser = await startChromium();
  await bundlers.find((b) => b.name === 'esbuild' && b.runs === 'browser')?.bundle?.(freshFolder(BUNDLE));
});
afterAll(async () => {
  if (typeof browser === 'object') await browser.close();
});

type Passed = Extract<SmokeResult, { passed: unknown }>;

function passed(result: SmokeResult): Passed {
  expect(result).toHaveProperty('passed');
  return result as Passed;
}

describe('pages', () => {
  async function smoke(
    context: TestContext,
    settings: { headers?: Readonly<Record<string, string>>; before?: string; expected?: object },
  ): Promise<Passed['backend']> {
    if (typeof browser === 'string') return context.skip(browser);
    const server = await serve({ mounts, headers: { ...ISOLATED, ...settings.headers } });
    try {
      const task = { ...(await taskOf('cpu', server.origin)), ...settings.expected };
      return passed(await smokeInPage(browser, `${server.origin}${PAGE}`, task, settings.before)).backend;
    } finally {
      await server.stop();
    }
  }

  it('whose content policy forbids workers from a blob compute in the page', async (context) => {
    const headers = { 'Content-Security-Policy': "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'" };
    const { reason } = await smoke(context, { headers, expected: { threads: 1 } });
    expect(reason).toMatch(/no workers here \(.+\): the caller executes/);
  });

  it('without `Worker` compute in the page', async (context) => {
    const { reason } = await smoke(context, { before: 'delete globalThis.Worker', expected: { threads: 1 } });
    expect(reason).toContain('no workers here (this runtime has none): the caller executes');
  });

  it('without SharedArrayBuffer compute in the page', async (context) => {
    const before = 'delete globalThis.SharedArrayBuffer';
    const { reason } = await smoke(context, { before, expected: { threads: 1 } });
    expect(reason).toContain('no shared memory here: the caller executes');
  });

  it('whose content policy forbids WebAssembly compute with plain loops', async (context) => {
    if (typeof browser === 'string') return context.skip(browser);
    const headers = { ...ISOLATED, 'Content-Security-Policy': "script-src 'self'" };
    const server = await serve({ mounts, headers });
    try {
      const task = await continuationTask('cpu', server.origin);
      const { backend } = passed(await smokeInPage(browser, `${server.origin}${PAGE}`, task));
      expect(backend).toMatchObject({ simd: 'off', threads: 1 });
    } finally {
      await server.stop();
    }
  });
});

describe('downloads that break off', () => {
  let once: FileServer;
  let always: FileServer;
  let broken = 0;
  beforeAll(async () => {
    const inTheMiddle = (start: number) => start > 20 * MEGABYTE;
    once = await serve({ mounts, cut: (_, start) => (inTheMiddle(start) && broken++ === 0 ? 100_000 : undefined) });
    always = await serve({ mounts, cut: (_, start) => (inTheMiddle(start) ? 0 : undefined) });
  });
  afterAll(async () => {
    await once.stop();
    await always.stop();
  });

  for (const { name, command, program } of serverRuntimes()) {
    if (program !== 'module.mjs') continue;
    it(`are resumed, or end with a typed error: ${name}`, async (context) => {
      if (command === undefined) return context.skip(NOT_INSTALLED);
      broken = 0;
      const task = JSON.stringify(badNetworkTask(once.origin, always.origin));
      passed((await resultOf([...command, join(APP, program), task], { cwd: APP })) as SmokeResult);
      expect(broken).toBeGreaterThan(0);
    });
  }

  it('are resumed, or end with a typed error: Chromium', async (context) => {
    if (typeof browser === 'string') return context.skip(browser);
    broken = 0;
    const page = await serve({ mounts });
    try {
      passed(await smokeInPage(browser, `${page.origin}${PAGE}`, badNetworkTask(once.origin, always.origin)));
      expect(broken).toBeGreaterThan(0);
    } finally {
      await page.stop();
    }
  });
});
