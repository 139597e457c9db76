/** The package inside bundles: built by each bundler without any setting for it, and run. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { MOUNTS, taskOf } from './app.ts';
import { BUNDLES, bundlers, developWithVite, freshFolder } from './bundlers.ts';
import { type Browser, startChromium } from './chromium.ts';
import { cell, type SmokeResult } from './matrix.ts';
import { smokeInPage } from './page.ts';
import { NOT_INSTALLED, resultOf } from './runtimes.ts';
import { type FileServer, ISOLATED, serve } from './server.ts';

let server: FileServer;
let browser: Browser | string;
beforeAll(async () => {
  server = await serve({ mounts: { ...MOUNTS, bundles: BUNDLES }, headers: ISOLATED });
  browser = await startChromium();
});
afterAll(async () => {
  await server.stop();
  if (typeof browser === 'object') await browser.close();
});

describe('bundles', () => {
  for (const { name, runs, bundle } of bundlers) {
    const where = `${name}, ${runs === 'node' ? `Node ${process.versions.node.split('.')[0]}` : 'Chromium'}`;
    it(where, (context) =>
      cell(context, where, 'cpu', async (): Promise<SmokeResult> => {
        if (bundle === undefined) return { skipped: NOT_INSTALLED };
        const place = `${name}-${runs}`.replace(/\W+/g, '-');
        const folder = freshFolder(place);
        await bundle(folder);
        const task = await taskOf('cpu', server.origin);
        if (runs === 'node') {
          const command = [process.execPath, join(folder, 'module.mjs'), JSON.stringify(task)];
          return (await resultOf(command, { cwd: folder })) as SmokeResult;
        }
        if (typeof browser === 'string') return { skipped: browser };
        if (!existsSync(join(folder, 'bundled.html'))) throw new Error(`${folder}: expected bundled.html`);
        return smokeInPage(browser, `${server.origin}/bundles/${place}/bundled.html`, task);
      }),
    );
  }

  const development = 'Vite in development, Chromium';
  it(development, (context) =>
    cell(context, development, 'cpu', async (): Promise<SmokeResult> => {
      if (developWithVite === undefined) return { skipped: NOT_INSTALLED };
      if (typeof browser === 'string') return { skipped: browser };
      const { page, close } = await developWithVite(ISOLATED);
      try {
        return await smokeInPage(browser, page, await taskOf('cpu', server.origin));
      } finally {
        await close();
      }
    }),
  );
});
