/** Chromium, driven by playwright-core; both are optional. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NOT_INSTALLED } from './runtimes.ts';

/** The part of playwright's interface that is used: its types are not there where it is not installed. */
export interface Page {
  addInitScript(script: string): Promise<void>;
  goto(url: string): Promise<unknown>;
  waitForFunction(expression: string, argument?: unknown, options?: { timeout: number }): Promise<unknown>;
  evaluate<R>(expression: string): Promise<R>;
  on(event: 'console' | 'pageerror', listener: (message: { text?(): string; message?: string }) => void): void;
  close(): Promise<void>;
}

interface Context {
  newPage(): Promise<Page>;
  close(): Promise<void>;
}

interface Playwright {
  readonly chromium: { launchPersistentContext(profile: string, options: object): Promise<Context> };
}

export interface Browser {
  newPage(): Promise<Page>;
  close(): Promise<void>;
}

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
/** Nothing of the browser's own goes to the network; a software adapter may stand in for a GPU. */
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  '--enable-unsafe-webgpu',
];

/** Starts Chromium with a fresh profile, or says why not. */
export async function startChromium(): Promise<Browser | string> {
  const executablePath = [process.env['CHROMIUM'], ...PLACES].find((path) => path && existsSync(path));
  if (executablePath === undefined) return 'no Chromium here: install it, or set CHROMIUM to its path';
  let playwright: Playwright;
  try {
    playwright = createRequire(import.meta.url)('playwright-core') as Playwright;
  } catch {
    return NOT_INSTALLED;
  }
  const profile = await mkdtemp(join(tmpdir(), 'chromium-'));
  const context = await playwright.chromium.launchPersistentContext(profile, { executablePath, args: FLAGS });
  return {
    newPage: () => context.newPage(),
    async close() {
      await context.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
