/** Chromium, driven by playwright-core; both are optional. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CHROMIUM_FLAGS, chromiumPath } from './chromiumFlags.ts';
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

/** Starts Chromium with a fresh profile, or says why not. */
export async function startChromium(): Promise<Browser | string> {
  const executablePath = chromiumPath();
  if (executablePath === undefined) return 'no Chromium here: install it, or set CHROMIUM to its path';
  let playwright: Playwright;
  try {
    playwright = createRequire(import.meta.url)('playwright-core') as Playwright;
  } catch {
    return NOT_INSTALLED;
  }
  const profile = await mkdtemp(join(tmpdir(), 'chromium-'));
  const context = await playwright.chromium.launchPersistentContext(profile, {
    executablePath,
    args: [...CHROMIUM_FLAGS],
  });
  return {
    newPage: () => context.newPage(),
    async close() {
      await context.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
