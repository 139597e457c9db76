import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FormatError, ModelLoadError, StorageError, UnsupportedError } from '../../src/core/errors.ts';
import type { HubOptions } from '../../src/core/io/hub.ts';
import { openHubRepo } from '../../src/core/io/hub.ts';
import { resolveModel } from '../../src/core/io/resolve.ts';
import type { Platform } from '../../src/core/platform.ts';
import { opfsPlatform } from '../../src/platform/opfs.ts';
import { shaHasher } from '../../src/platform/sha.ts';
import { webPlatform } from '../../src/platform/web.ts';
import { FakeHub } from './fakeHub.ts';
import { FakeOpfs } from './fakeOpfs.ts';

const text = (s: string): Uint8Array => new TextEncoder().encode(s);

let opfs: FakeOpfs;
let platform: Platform;
beforeEach(() => {
  opfs = new FakeOpfs();
  platform = opfsPlatform(webPlatform(), opfs);
});

describe('running digests without a library', () => {
  it('equal those of the runtime, however the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 6 }), (pieces) => {
        for (const algorithm of ['sha1', 'sha256'] as const) {
          const ours = shaHasher(algorithm);
          const theirs = createHash(algorithm);
          for (const piece of pieces) {
            ours.update(piece);
            theirs.update(piece);
          }
          expect(ours.digest()).toBe(theirs.digest('hex'));
        }
      }),
    );
  });

  it('hold at every length around a block', () => {
    for (let n = 0; n <= 130; n++) {
      const bytes = Uint8Array.from({ length: n }, (_, i) => i * 7);
      const ours = shaHasher('sha256');
      ours.update(bytes);
      expect(ours.digest()).toBe(createHash('sha256').update(bytes).digest('hex'));
    }
  });
});

describe('files of the origin private file system', () => {
  it('are written whole, at positions, renamed, linked, listed and removed', async () => {
    await platform.writeFile('/new/deep/f.txt', 'hällo');
    await platform.writeFile('new/deep/f.txt', 'hällo 2');
    expect(await platform.readText('/new/deep/f.txt', 100)).toBe('hällo 2');
    await expect(platform.readText('/new/deep/f.txt', 3)).rejects.toThrow(FormatError);
    expect(opfs.files()).toEqual(['/new/deep/f.txt']);

    await platform.link('/new/deep/f.txt', '/links/l.txt');
    await platform.link('/new/deep/f.txt', '/links/l.txt');
    expect(await platform.readText('/links/l.txt', 100)).toBe('hällo 2');
    expect(await platform.realPath('/links/l.txt')).toBe('/new/deep/f.txt');
    expect(await platform.listDir('/links')).toEqual([{ name: 'l.txt', kind: 'other' }]);
    expect(await platform.listDir('/new')).toEqual([{ name: 'deep', kind: 'directory' }]);
    expect(await platform.stat('/links/l.txt')).toEqual({ kind: 'file', size: 8 });
    expect(await platform.stat('/new/deep')).toEqual({ kind: 'directory', size: 0 });

    await platform.writeFile('/other', 'x');
    await platform.rename('/new/deep/f.txt', '/other');
    expect(await platform.readText('/other', 100)).toBe('hällo 2');
    expect(await platform.exists('/links/l.txt')).toBe(false);
    await platform.writeFile('/links/l.txt', 'no link any more');
    expect(await platform.readText('/links/l.txt', 100)).toBe('no link any more');
    expect(opfs.files().filter((f) => f.startsWith('/links'))).toEqual(['/links/l.txt']);
    await platform.remove('/other');
    await platform.remove('/other');
    await platform.remove('/absent/other');
    expect(await platform.stat('/other')).toBeUndefined();
  });

  it('are refused when they are none', async () => {
    await platform.writeFile('/f', 'x');
    await expect(platform.openFile('/absent')).rejects.toThrow(/absent: no such file/);
    await expect(platform.openFile('/')).rejects.toThrow(/expected a file, got a folder/);
    await expect(platform.listDir('/absent')).rejects.toThrow(ModelLoadError);
    for (const path of ['/f/below', '/..', '/a\\b', '/absent/x']) expect(await platform.stat(path)).toBeUndefined();
    await platform.link('/b', '/a');
    await platform.link('/a', '/b');
    await expect(platform.stat('/a')).rejects.toThrow(/expected at most 4 links/);
  });

  it('are absent in pages that have none', async () => {
    const none = opfsPlatform(webPlatform(), { ...opfs, root: async () => Promise.reject(new Error('not allowed')) });
    await expect(none.stat('/x')).rejects.toThrow(UnsupportedError);
  });

  it('one writer at a time', async () => {
    const writer = await platform.openWriter('/x');
    await expect(platform.openWriter('/x')).rejects.toThrow(/in use by another tab/);
    await writer.close();
    await (await platform.openWriter('/x')).close();
  });
});

describe('the cache of a browser', () => {
  let hub: FakeHub;
  let options: HubOptions;
  const data = Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 131) % 251);
  beforeEach(async () => {
    hub = await new FakeHub().start();
    hub.files = { 'config.json': { data: text('{"a":1}') }, 'model.safetensors': { data, large: true } };
    options = { platform, endpoint: hub.endpoint, cacheDir: '/models', attempts: 1, retryDelayMs: 1 };
  });
  afterEach(() => hub.stop());

  const load = async (more: Partial<HubOptions> = {}): Promise<Uint8Array> => {
    const repo = await openHubRepo('org/tiny', { ...options, ...more });
    await repo.prepare(repo.files);
    const source = await repo.open('model.safetensors');
    const bytes = await source.slice(0, source.size);
    await source.close();
    return bytes;
  };

  it('is filled once, and serves without a connection', async () => {
    expect(Buffer.compare(await load(), data)).toBe(0);
    const asked = hub.downloads.length;
    expect(Buffer.compare(await load(), data)).toBe(0);
    expect(hub.downloads.length).toBe(asked);
    hub.stop();
    expect(Buffer.compare(await load(), data)).toBe(0);
    expect(Buffer.compare(await load({ offline: true }), data)).toBe(0);
  });

  it('goes on where a download was cut off', async () => {
    delete hub.files['config.json'];
    hub.breaks = [1_500_000];
    await expect(load()).rejects.toThrow(/tries/);
    const part = opfs.files().find((f) => f.endsWith('.incomplete'));
    expect(part).toBeDefined();
    const held = (await platform.stat(part!))!.size;
    expect(held).toBeGreaterThan(0);
    expect(Buffer.compare(await load(), data)).toBe(0);
    expect(hub.downloads.at(-1)).toContain(`bytes=${held}-`);
    expect(opfs.files().some((f) => f.endsWith('.incomplete'))).toBe(false);
  });

  it('is refused before the first byte when the quota has no room', async () => {
    opfs.quota = 2_000_000;
    await expect(load()).rejects.toThrow(/expected room for 3\.0 MB in the cache, got 2\.0 MB/);
    await expect(load()).rejects.toThrow(StorageError);
    expect(hub.downloads).toEqual([]);
    const whole = resolveModel('org/tiny', { ...options, cacheDir: '/models' });
    await expect(whole).rejects.toThrow(StorageError);
  });

  it('ends with a typed error when the quota ends before the browser said', async () => {
    opfs.quota = 2_000_000;
    opfs.claimedQuota = 1e9;
    await expect(load()).rejects.toThrow(/org\/tiny\/model\.safetensors: expected room for 3\.0 MB at .*used up/);
    await expect(load()).rejects.toThrow(StorageError);
    opfs.quota = 1e9;
    expect(Buffer.compare(await load(), data)).toBe(0);
  });
});
