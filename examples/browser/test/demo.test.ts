import { mkdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FakeHub } from '../../../test/io/fakeHub.ts';
import { answer, ask, Demo, drop, loaded, missing, stat, trouble, watchFrames } from './demoPage.ts';

const fixture = fileURLToPath(new URL('../../../test/fixtures/models/gguf_llama_q8_0/model.gguf', import.meta.url));
const pictures = fileURLToPath(new URL('../../../.cache/demo/', import.meta.url));
const EMBEDDED = fileURLToPath(new URL('../../../models/smollm2-135m-instruct-q4_1.gguf', import.meta.url));
const MODEL_BYTES = 98e6;
/** A frame of a page that answers takes less; on a busy machine any page may wait for a processor. */
const LONGEST_FRAME_MS = 1000;

const reason = missing();
if (reason !== undefined) console.log(`demo: skipped: ${reason}`);

describe.skipIf(reason !== undefined)('the demo in Chromium', () => {
  const demo = new Demo();
  const hub = new FakeHub();
  let url = '';
  let page: Page;
  const model = readFileSync(fixture);

  beforeAll(async () => {
    mkdirSync(pictures, { recursive: true });
    await demo.start();
    await hub.start();
    hub.files = { 'model.gguf': { data: model, large: true } };
    url = await demo.serve();
    page = await demo.open(`${url}?hub=${encodeURIComponent(hub.endpoint)}`);
  });
  afterAll(async () => {
    await demo.stop();
    hub.stop();
  });
  /** Resident bytes once they are below a bound, or after a while: the browser frees in its own time. */
  const settled = async (bound: number): Promise<number | undefined> => {
    for (let tries = 0; ; tries++) {
      const now = await demo.memory();
      if (now === undefined || now < bound || tries > 40) return now;
      await page.waitForTimeout(500);
    }
  };
  const picture = (name: string, of: Page = page) => of.screenshot({ path: `${pictures}${name}.png` });
  const byHub = async (repo: string): Promise<void> => {
    await page.getByLabel('Or take one from the hub').fill(repo);
    await page.getByRole('button', { name: 'Load', exact: true }).click();
  };
  const unload = async (): Promise<void> => {
    await page.getByRole('button', { name: 'Unload' }).click();
    await page.waitForSelector('body[data-state="empty"]');
  };

  it('loads the embedded model and streams an answer, while the page stays responsive', async () => {
    await picture('welcome');
    await page.getByRole('button', { name: /^Load SmolLM2/ }).click();
    await loaded(page);
    expect(await page.locator('#model-facts').innerText()).toContain('Llama');
    expect(await stat(page, 'Back-end').innerText()).toMatch(/^(CPU, \d+ threads?|WebGPU)$/);
    expect(await stat(page, 'Memory').innerText()).toMatch(/^\d+ MB$/);
    await picture('loaded');

    const frames = await watchFrames(page);
    await ask(page, 'What is the mistral wind? Answer in two sentences.');
    await page.waitForSelector('.growing .prose p');
    await picture('streaming');
    const { text, note } = await answer(page);
    const longest = await frames();
    expect(text).toMatch(/wind/i);
    expect(note).toMatch(/^\d+ tokens, [\d.]+ a second/);
    expect(await stat(page, 'Speed').innerText()).toMatch(/^[\d.]+ tokens\/s$/);
    expect(await stat(page, 'First token').innerText()).toMatch(/^[\d.]+ s$/);
    expect(await page.locator('#announcer').innerText()).toContain(text.slice(0, 20));
    console.log(
      `demo: longest frame while streaming ${longest.toFixed(0)} ms; ${await stat(page, 'Speed').innerText()}`,
    );
    expect(longest).toBeLessThan(LONGEST_FRAME_MS);
  });

  it('stops an answer where it is, and starts a new chat', async () => {
    await ask(page, 'Write a long story about the sea, in ten chapters.');
    await page.waitForSelector('.growing .prose p');
    await page.getByRole('button', { name: 'Stop' }).click();
    const { text, note } = await answer(page);
    expect(text.length).toBeGreaterThan(0);
    expect(note).toContain('stopped');
    await ask(page, 'Write another one, as long.');
    await page.waitForSelector('.growing .prose p');
    await page.keyboard.press('Escape');
    expect((await answer(page)).note).toContain('stopped');
    await page.locator('#panel').getByRole('button', { name: 'New chat' }).click();
    expect(await page.locator('.turn').count()).toBe(0);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe('prompt');
  });

  it('obeys its settings, and keeps them', async () => {
    await page.getByText('Sampling').click();
    await page.getByLabel('Longest answer').fill('6');
    await page.getByLabel('Seed').fill('7');
    await page.getByLabel('System prompt').fill('You answer in one word.');
    const words: string[] = [];
    for (let i = 0; i < 2; i++) {
      await ask(page, '<img src=x onerror="document.title = 1"> Name a wind.');
      const { text, note } = await answer(page);
      expect(note).toMatch(/^[1-6] tokens?/);
      words.push(text);
      await page.locator('#panel').getByRole('button', { name: 'New chat' }).click();
    }
    expect(words[1]).toBe(words[0]);
    expect(await page.title()).toBe('Tramontane');
    await picture('settings');
    await page.reload();
    expect(await page.getByLabel('System prompt').inputValue()).toBe('You answer in one word.');
    await page.getByText('Sampling').click();
    expect(await page.getByLabel('Longest answer').inputValue()).toBe('6');
    await page.getByRole('button', { name: 'Back to the defaults' }).click();
    expect(await page.getByLabel('Longest answer').inputValue()).toBe('512');
    await page.getByLabel('System prompt').fill('');
  });

  it('loads a GGUF file from the file picker, and frees what it held', async () => {
    let bound: number | undefined;
    for (let round = 0; round < 4; round++) {
      await page.locator('#file').setInputFiles(EMBEDDED);
      await loaded(page);
      const held = await demo.memory();
      await unload();
      if (held === undefined) break;
      // What the first round leaves is the most that a later one may: a model that stayed would add its own bytes.
      bound ??= held - MODEL_BYTES;
      const after = await settled(bound);
      console.log(
        `demo: resident ${(held / 1e6).toFixed(0)} MB with the model, ${((after ?? 0) / 1e6).toFixed(0)} MB without`,
      );
      expect(after).toBeLessThan(bound);
    }

    await page.getByLabel('Open a GGUF file').setInputFiles(fixture);
    await loaded(page);
    await ask(page, 'ab');
    await answer(page);
    await unload();
  });

  it('refuses files that are no models, in words', async () => {
    await drop(page, 'notes.txt', 'hello');
    await trouble(page).waitFor();
    expect(await trouble(page).innerText()).toMatch(/FormatError notes\.txt: expected a GGUF file/);
    await picture('trouble');
    await drop(page, 'broken.gguf', `GGUF\u0003\0\0\0${'\u0001'.repeat(100)}`);
    await page.waitForFunction(() => document.querySelector('#trouble')?.textContent?.includes('broken.gguf'));
    expect(await trouble(page).innerText()).toMatch(/FormatError broken\.gguf: /);
    expect(await page.getByRole('button', { name: /^Load SmolLM2/ }).isVisible()).toBe(true);
  });

  it('takes a model from the hub: a cut-off download is told and goes on where it ended', async () => {
    await page.goto(`${url}?hub=${encodeURIComponent(hub.endpoint)}`);
    hub.breaks = [100_000, 1, 1, 1, 1];
    await byHub('org/tiny');
    await trouble(page).waitFor();
    expect(await trouble(page).innerText()).toMatch(/ConnectionError .*\(5 tries\)/);
    await page.getByRole('button', { name: 'Try again' }).click();
    await loaded(page);
    const ranges = hub.downloads.map((d) => Number(/bytes=(\d+)-/.exec(d)?.[1]));
    expect(ranges[0]).toBe(0);
    expect(ranges.at(-1)).toBeGreaterThan(0);
    await unload();

    // Kept: no connection is needed any more.
    const asked = hub.requests.length;
    hub.stop();
    await page.getByText('Kept in this browser').click();
    expect(await page.locator('#kept-list').innerText()).toMatch(/org\/tiny\s+\d+ kB/);
    await byHub('org/tiny');
    await loaded(page);
    expect(hub.requests.length).toBe(asked);
    await unload();
    await page.getByRole('button', { name: 'Remove org/tiny' }).click();
    await page.getByText('No downloads from the hub are kept.').waitFor();
    await hub.start();
  });

  it('says when the storage has no room, and loads without keeping', async () => {
    await page.goto(`${url}?hub=${encodeURIComponent(hub.endpoint)}`);
    const session = await page.context().newCDPSession(page);
    await session.send('Storage.overrideQuotaForOrigin', { origin: new URL(url).origin, quotaSize: 50_000 });
    await byHub('org/tiny');
    await trouble(page).waitFor();
    expect(await trouble(page).innerText()).toMatch(
      /StorageError org\/tiny\/model\.gguf: expected room for 0\.1 MB at .*used up/,
    );
    await picture('no-room');
    await page.getByRole('button', { name: 'Load without keeping it' }).click();
    await loaded(page);
    await unload();
    await session.send('Storage.overrideQuotaForOrigin', { origin: new URL(url).origin });
    await byHub('org/absent');
    await page.waitForFunction(() => document.querySelector('#trouble')?.textContent?.includes('org/absent'));
    expect(await trouble(page).innerText()).toMatch(/ModelLoadError .*org\/absent/);
  });

  it('computes on WebGPU when told to, or says why not', async () => {
    await page.goto(url);
    await trouble(page).waitFor({ state: 'hidden' });
    await page.getByLabel('WebGPU').check();
    await page.locator('#file').setInputFiles(fixture);
    await page.waitForSelector('body[data-state="loaded"], #trouble:not([hidden])');
    const state = await page.evaluate(() => document.body.dataset['state']);
    const told = state === 'loaded' ? await stat(page, 'Back-end').innerText() : await trouble(page).innerText();
    console.log(`demo: webgpu: ${told}`);
    expect(told).toMatch(/^WebGPU$|^(UnsupportedError|ModelLoadError) .*webgpu/i);
    if (state === 'loaded') await unload();
    await page.getByLabel('Auto').check();
  });

  it('fits a phone', async () => {
    for (const colorScheme of ['light', 'dark'] as const) {
      const phone = await demo.open(url, {
        viewport: { width: 390, height: 844 },
        deviceScaleFactor: 2,
        isMobile: true,
        hasTouch: true,
        colorScheme,
      });
      const overflow = (): Promise<number> =>
        phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      expect(await overflow()).toBe(0);
      await picture(`phone-welcome-${colorScheme}`, phone);
      const settings = phone.getByRole('button', { name: 'Settings' });
      await settings.click();
      await phone.getByText('Sampling').click();
      await picture(`phone-panel-${colorScheme}`, phone);
      expect(await phone.evaluate(() => document.querySelector('main')?.inert)).toBe(true);
      await phone.keyboard.press('Escape');
      expect(await phone.evaluate(() => document.activeElement?.id)).toBe('open-panel');
      await phone.locator('#file').setInputFiles(EMBEDDED);
      await loaded(phone);
      await ask(phone, 'Write a tiny Python function that adds two numbers, in a code block.');
      await answer(phone);
      expect(await overflow()).toBe(0);
      await picture(`phone-chat-${colorScheme}`, phone);
      await phone.context().close();
    }
  });

  it('can be used without a mouse', async () => {
    await page.goto(url);
    await page.getByLabel('Auto').check();
    await page.reload();
    const press = async (...keys: string[]): Promise<void> => {
      for (const key of keys) await page.keyboard.press(key);
    };
    // Past the panel, to the first way to load a model.
    await press('Tab', 'Enter', 'Tab', 'Enter');
    await loaded(page);
    await page.keyboard.type('Say hello.');
    await press('Enter');
    expect((await answer(page)).text).not.toBe('');
    await page.keyboard.type('Two lines');
    await press('Shift+Enter');
    expect(await page.getByLabel('Message', { exact: true }).inputValue()).toBe('Two lines\n');
    await unload();
  });

  it('works in a page that is not isolated: one thread, and the page says so', async () => {
    const plain = await demo.open(await demo.serve({}));
    expect(await plain.evaluate(() => crossOriginIsolated)).toBe(false);
    expect(await plain.locator('#isolation').innerText()).toContain('one thread computes');
    await plain.locator('#file').setInputFiles(EMBEDDED);
    await loaded(plain);
    const frames = await watchFrames(plain);
    await ask(plain, 'Name a wind.');
    await answer(plain);
    const longest = await frames();
    console.log(`demo: longest frame without isolation ${longest.toFixed(0)} ms`);
    expect(longest).toBeLessThan(LONGEST_FRAME_MS);
    expect(await stat(plain, 'Back-end').innerText()).toBe('CPU, 1 thread');
    await plain.context().close();
  });

  it('never logs an error of its own', () => {
    // Requests that a server cut off or refused are in the console by the browser's own doing.
    expect(demo.errors.filter((e) => !/Failed to load resource|net::ERR_/.test(e))).toEqual([]);
  });
});
