/** The programs of the README for other runtimes, run there as they stand. */
import { cpSync, existsSync, linkSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { APP, MODEL_FILE, root } from './app.ts';
import { startChromium } from './chromium.ts';
import { NOT_INSTALLED, outputOf, serverRuntimes } from './runtimes.ts';
import { ISOLATED, serve } from './server.ts';

const readme = readFileSync(join(root, 'README.md'), 'utf8');

/** The one block of the README with this language. */
function block(info: string): string {
  const found = [...readme.matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)].filter((m) => m[1] === info);
  expect(found.length, info).toBe(1);
  return found[0]?.[2] ?? '';
}

beforeAll(() => {
  const folder = join(APP, 'models');
  mkdirSync(folder, { recursive: true });
  if (existsSync(join(folder, 'my.gguf'))) return;
  try {
    linkSync(MODEL_FILE, join(folder, 'my.gguf'));
  } catch {
    cpSync(MODEL_FILE, join(folder, 'my.gguf'));
  }
});

describe('the program of the README', () => {
  for (const name of ['deno', 'bun']) {
    it(`for ${name}`, async (context) => {
      const runtime = serverRuntimes().find((r) => r.name.toLowerCase() === name);
      if (runtime?.command === undefined) return context.skip(NOT_INSTALLED);
      const code = block(`ts ${name}`);
      // Started as its first line says, by the binary that is here.
      const words = (/^\/\/ (.+)$/m.exec(code)?.[1] ?? '').split(' ');
      expect(words[0]).toBe(name);
      writeFileSync(join(APP, 'hello.ts'), code);
      const output = await outputOf([runtime.command[0] ?? '', ...words.slice(1)], { cwd: APP });
      expect(output.trim().length).toBeGreaterThan(10);
    });
  }

  it('for a page', async (context) => {
    const browser = await startChromium();
    if (typeof browser === 'string') return context.skip(browser);
    writeFileSync(join(APP, 'hello.html'), `<!doctype html><link rel="icon" href="data:,"><body>\n${block('html')}`);
    const mounts = { app: APP, node_modules: join(APP, 'node_modules'), models: join(APP, 'models') };
    const server = await serve({ mounts, headers: ISOLATED });
    try {
      const page = await browser.newPage();
      await page.goto(`${server.origin}/app/hello.html`);
      await page.waitForFunction('document.body.innerText.length > 10', undefined, { timeout: 300_000 });
    } finally {
      await browser.close();
      await server.stop();
    }
  });
});
