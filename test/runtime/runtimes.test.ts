/** One smoke suite in every runtime, on every back-end that it offers, with the package as it is published. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { APP, BACKENDS, type BackendName, continuationTask, MOUNTS, type ModelName, taskOf } from './app.ts';
import { type Browser, startChromium } from './chromium.ts';
import { cell, type SmokeResult } from './matrix.ts';
import { smokeInPage } from './page.ts';
import { NOT_INSTALLED, resultOf, serverRuntimes } from './runtimes.ts';
import { type FileServer, ISOLATED, serve } from './server.ts';

/** On software adapters the large model runs once; everywhere else a small one must do. */
const modelOf = (runtime: string, backend: BackendName): ModelName =>
  backend === 'cpu' || runtime === `Node ${process.versions.node.split('.')[0]}, ES module` ? 'embedded' : 'tiny';

let server: FileServer;
beforeAll(async () => {
  server = await serve({ mounts: MOUNTS });
});
afterAll(() => server.stop());

describe('servers and the command line', () => {
  for (const { name, command, program } of serverRuntimes()) {
    for (const backend of BACKENDS) {
      it(`${name}: ${backend}`, (context) =>
        cell(context, name, backend, async () => {
          if (command === undefined) return { skipped: NOT_INSTALLED };
          const task = JSON.stringify(await taskOf(backend, server.origin, modelOf(name, backend)));
          return (await resultOf([...command, join(APP, program), task], { cwd: APP })) as SmokeResult;
        }));
    }
  }
});

describe('browsers', () => {
  let browser: Browser | string;
  beforeAll(async () => {
    browser = await startChromium();
  });
  afterAll(async () => {
    if (typeof browser === 'object') await browser.close();
  });

  for (const [name, headers] of [
    ['Chromium, cross-origin isolated', ISOLATED],
    ['Chromium, not isolated', {}],
  ] as const) {
    for (const backend of BACKENDS) {
      it(`${name}: ${backend}`, (context) =>
        cell(context, name, backend, async () => {
          if (typeof browser === 'string') return { skipped: browser };
          const pages = await serve({ mounts: MOUNTS, headers });
          try {
            // Chromium's software adapter compiles for minutes what longer prompts need.
            const makeTask = backend === 'cpu' ? taskOf : continuationTask;
            const task = await makeTask(backend, pages.origin);
            return await smokeInPage(browser, `${pages.origin}/app/page.html`, task);
          } finally {
            await pages.stop();
          }
        }));
    }
  }
});
