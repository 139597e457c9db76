/** Runs the smoke suite in a page that offers `runSmoke`. */
import type { Browser } from './chromium.ts';
import type { SmokeResult } from './matrix.ts';

export async function smokeInPage(
  browser: Browser,
  url: string,
  task: object,
  /** Runs in the page before its own scripts. */
  before?: string,
): Promise<SmokeResult> {
  const page = await browser.newPage();
  if (before !== undefined) await page.addInitScript(before);
  const said: string[] = [];
  page.on('console', (message) => said.push(message.text?.() ?? ''));
  page.on('pageerror', (error) => said.push(error.message ?? ''));
  try {
    await page.goto(url);
    await page.waitForFunction('globalThis.runSmoke !== undefined');
    return await page.evaluate<SmokeResult>(`runSmoke(${JSON.stringify(task)})`);
  } catch (error) {
    throw new Error(`${url}: ${String(error)}\n${said.join('\n')}`);
  } finally {
    await page.close();
  }
}
