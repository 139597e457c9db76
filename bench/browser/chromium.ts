/** Chromium in a process of its own, so that its memory can be seen from outside. */
import { createRequire } from 'node:module';
import { CHROMIUM_FLAGS } from '../../test/runtime/chromiumFlags.ts';

/** The part of playwright's interface that is used: its types are not there where it is not installed. */
export interface Page {
  goto(url: string): Promise<unknown>;
  waitForFunction(expression: string): Promise<unknown>;
  evaluate<R>(expression: string): Promise<R>;
}

interface Playwright {
  readonly chromium: {
    launchServer(options: object): Promise<{ wsEndpoint(): string; process(): { pid: number }; kill(): Promise<void> }>;
    connect(endpoint: string): Promise<{ newPage(): Promise<Page>; version(): string }>;
  };
}

export interface Chromium {
  readonly page: Page;
  readonly pid: number;
  readonly version: string;
  kill(): Promise<void>;
}

const FLAGS = [
  ...CHROMIUM_FLAGS,
  '--enable-features=Vulkan',
  // Else the page's memory is counted at the next garbage collection, which may be a minute away.
  '--enable-blink-features=ForceEagerMeasureMemory',
];

/**
 * Starts Chromium without windows and with a fresh profile, and opens a page.
 *
 * @param modules a file beside whose `node_modules` playwright-core is looked for
 */
export async function startChromium(
  modules: string,
  executablePath: string,
  more: readonly string[],
): Promise<Chromium> {
  const { chromium } = createRequire(modules)('playwright-core') as Playwright;
  const server = await chromium.launchServer({ executablePath, headless: true, args: [...FLAGS, ...more] });
  const browser = await chromium.connect(server.wsEndpoint());
  return {
    page: await browser.newPage(),
    pid: server.process().pid,
    version: browser.version(),
    kill: () => server.kill(),
  };
}
