/** The built demo, served, in a Chromium; and the few gestures that the tests make. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { Browser, BrowserContext, BrowserContextOptions, Page } from 'playwright-core';
import type { InlineConfig, PreviewServer } from 'vite';

export const root = fileURLToPath(new URL('..', import.meta.url));
const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
/** Nothing of the browser's own goes to the network. */
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
];

const executablePath = [process.env['CHROMIUM'], ...PLACES].find((path) => path && existsSync(path));

/** Why the page cannot be tried here, or `undefined`. */
export function missing(): string | undefined {
  if (executablePath === undefined) return 'no Chromium here: install it, or set CHROMIUM to its path';
  if (!existsSync(`${root}node_modules/vite`) || !existsSync(`${root}node_modules/playwright-core`)) {
    return 'the packages of the demo are not installed: npm ci --prefix examples/browser';
  }
  if (!existsSync(`${root}../../dist/index.js`)) return 'the package is not built: npm run build';
  return undefined;
}

const require = createRequire(`${root}package.json`);

export class Demo {
  readonly #servers: PreviewServer[] = [];
  readonly #contexts: BrowserContext[] = [];
  #browser: Browser | undefined;
  /** Everything that went to a console as an error, or was thrown and not caught. */
  readonly errors: string[] = [];

  async start(): Promise<this> {
    const vite = await this.#vite();
    await vite.build({ root, logLevel: 'error' });
    const { chromium } = require('playwright-core') as typeof import('playwright-core');
    this.#browser = await chromium.launch({ executablePath: executablePath!, args: FLAGS });
    return this;
  }

  /** Serves the build; `headers` instead of those that isolate the page. */
  async serve(headers?: Record<string, string>): Promise<string> {
    const vite = await this.#vite();
    const config: InlineConfig = { root, logLevel: 'error', preview: { port: 0, host: '127.0.0.1' } };
    const server = await vite.preview(config);
    if (headers)
      for (const name of Object.keys(server.config.preview.headers)) delete server.config.preview.headers[name];
    this.#servers.push(server);
    const { port } = server.httpServer.address() as AddressInfo;
    return `http://127.0.0.1:${port}/`;
  }

  async open(url: string, options: BrowserContextOptions = {}): Promise<Page> {
    const context = await this.#browser!.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    this.#contexts.push(context);
    const page = await context.newPage();
    page.setDefaultTimeout(90_000);
    page.on('pageerror', (error) => this.errors.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') this.errors.push(message.text());
    });
    await page.goto(url);
    return page;
  }

  /** Resident bytes of all pages, where the system tells. */
  memory(): Promise<number | undefined> {
    return rss(this.#browser!);
  }

  async stop(): Promise<void> {
    await this.#browser?.close();
    for (const server of this.#servers) await server.close();
  }

  #vite(): Promise<typeof import('vite')> {
    return import(require.resolve('vite')) as Promise<typeof import('vite')>;
  }
}

export const loaded = (page: Page): Promise<unknown> => page.waitForSelector('body[data-state="loaded"]');
export const trouble = (page: Page) => page.locator('#trouble');
/** Value of one measurement below the message field. */
export const stat = (page: Page, name: string) => page.locator('#stats > div', { hasText: name }).locator('dd');

export async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel('Message', { exact: true }).fill(text);
  await page.keyboard.press('Enter');
}

/** Waits for the end of the answer; its text, and the note below it. */
export async function answer(page: Page): Promise<{ readonly text: string; readonly note: string }> {
  const turn = page.locator('.answer').last();
  await page.waitForSelector('.answer:last-child:not(.growing)');
  return { text: await turn.locator('.prose').innerText(), note: await turn.locator('.note').innerText() };
}

/** Times of frames from now on; the function ends it and gives the longest, in milliseconds. */
export async function watchFrames(page: Page): Promise<() => Promise<number>> {
  await page.evaluate(() => {
    const state = { longest: 0, last: performance.now(), running: true };
    (window as unknown as { frames: typeof state }).frames = state;
    const frame = (): void => {
      const now = performance.now();
      state.longest = Math.max(state.longest, now - state.last);
      state.last = now;
      if (state.running) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });
  return () =>
    page.evaluate(() => {
      const { frames } = window as unknown as { frames: { longest: number; running: boolean } };
      frames.running = false;
      return frames.longest;
    });
}

/** Drops a file on the page. */
export async function drop(page: Page, name: string, content: string): Promise<void> {
  await page.evaluate(
    ([fileName, text]) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([text], fileName));
      for (const type of ['dragover', 'drop']) {
        document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
      }
    },
    [name, content] as const,
  );
}

/** Resident bytes of the page's processes, where the system tells. */
async function rss(browser: Browser): Promise<number | undefined> {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  let sum = 0;
  for (const { type, id } of processInfo) {
    const file = `/proc/${id}/status`;
    if (type !== 'renderer' || !existsSync(file)) continue;
    sum += Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(file, 'utf8'))?.[1] ?? 0) * 1024;
  }
  return sum > 0 ? sum : undefined;
}
