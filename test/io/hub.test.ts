import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AbortError, ConfigError, FormatError, ModelLoadError } from '../../src/core/errors.ts';
import type { HubOptions } from '../../src/core/io/hub.ts';
import { isHubId, openHubRepo } from '../../src/core/io/hub.ts';
import type { TokenSource } from '../../src/core/io/hubSettings.ts';
import { hubSettings, hubToken } from '../../src/core/io/hubSettings.ts';
import type { Progress } from '../../src/core/io/progress.ts';
import { readTextFrom } from '../../src/core/io/text.ts';
import type { Platform } from '../../src/core/platform.ts';
import { nodePlatform } from '../../src/platform/node.ts';
import { webPlatform } from '../../src/platform/web.ts';
import { etagOf, FakeHub } from './fakeHub.ts';

const bytes = (n: number, seed = 1): Uint8Array => Uint8Array.from({ length: n }, (_, i) => (i * 131 * seed) % 251);
const text = (s: string): Uint8Array => new TextEncoder().encode(s);
/** The real platform with another environment. */
const withEnv = (env: Record<string, string>, base: Platform = nodePlatform()): Platform => ({
  ...base,
  env: (name) => env[name],
  homeDir: () => '/home/someone',
});

let hub: FakeHub;
let cache = '';
let options: HubOptions;
beforeEach(async () => {
  hub = await new FakeHub().start();
  hub.files = {
    'config.json': { data: text('{"a":1}') },
    'model.safetensors': { data: bytes(3_000_000), large: true },
    'sub/copy.json': { data: text('{"a":1}') },
    'empty.txt': { data: bytes(0) },
    'ümläut #1.txt': { data: text('u') },
  };
  cache = fs.mkdtempSync(join(tmpdir(), 'hub-'));
  options = {
    platform: withEnv({ HF_HUB_CACHE: cache, HF_ENDPOINT: `${hub.endpoint}/` }),
    tokenSource: 'none',
    attempts: 2,
    retryDelayMs: 1,
  };
});
afterEach(() => {
  hub.stop();
  fs.rmSync(cache, { recursive: true });
});

const repoRoot = (): string => join(cache, 'models--org--tiny');
const snapshot = (path: string): string => join(repoRoot(), 'snapshots', hub.commit, path);
/** Compared as a whole: element by element takes seconds for megabytes. */
const expectSnapshot = (path: string): void => {
  expect(Buffer.compare(fs.readFileSync(snapshot(path)), hub.files[path]!.data)).toBe(0);
};
const blobs = (): string[] => fs.readdirSync(join(repoRoot(), 'blobs')).sort();
const open = (more: Partial<HubOptions> = {}) => openHubRepo('org/tiny', { ...options, ...more });
const textOf = async (repo: Awaited<ReturnType<typeof open>>, file: string): Promise<string> => {
  const source = await repo.open(file);
  const got = await readTextFrom(source, 10_000_000);
  await source.close();
  return got;
};

describe('a hub repository', () => {
  it('lies in the cache as the Python client puts it', async () => {
    const repo = await open();
    expect(repo.files).toEqual(Object.keys(hub.files));
    await repo.prepare(repo.files);
    expect(fs.readFileSync(join(repoRoot(), 'refs', 'main'), 'utf8')).toBe(hub.commit);
    for (const [path, file] of Object.entries(hub.files)) {
      expectSnapshot(path);
      const up = path.includes('/') ? '../../../' : '../../';
      expect(fs.readlinkSync(snapshot(path))).toBe(`${up}blobs/${etagOf(file)}`);
    }
    // Two files of one content are one blob, fetched once.
    expect(blobs()).toEqual([...new Set(Object.values(hub.files).map(etagOf))].sort());
    expect(hub.downloads.length).toBe(3);
    expect(repo).toMatchObject({ name: 'org/tiny', location: join(repoRoot(), 'snapshots', hub.commit) });
  });

  it('downloads only what is asked for, and once', async () => {
    const repo = await open();
    expect(await textOf(repo, 'config.json')).toBe('{"a":1}');
    expect(await textOf(await open(), 'config.json')).toBe('{"a":1}');
    expect(hub.downloads.length).toBe(1);
    await expect(repo.open('absent.json')).rejects.toThrow(/org\/tiny \(revision main\): has no file "absent.json"/);
  });

  it('takes a blob that is there for another revision', async () => {
    await (await open()).prepare(['config.json']);
    fs.rmSync(join(repoRoot(), 'snapshots'), { recursive: true });
    await (await open({ revision: 'refs/pr/1' })).prepare(['config.json']);
    expect(fs.readFileSync(snapshot('config.json'), 'utf8')).toBe('{"a":1}');
    expect(fs.readFileSync(join(repoRoot(), 'refs', 'refs/pr/1'), 'utf8')).toBe(hub.commit);
    expect(hub.downloads.length).toBe(1);
  });

  it('tells progress up to the total', async () => {
    const seen: Progress[] = [];
    await (await open({ onProgress: (p) => void seen.push(p) })).prepare(['model.safetensors', 'config.json']);
    const total = 3_000_007;
    expect(seen.every((p) => p.total === total && p.stage === 'download' && p.unit === 'bytes')).toBe(true);
    const done = seen.map((p) => p.done);
    expect(done).toEqual([...done].sort((a, b) => a - b));
    expect(done.at(-1)).toBe(total);
    expect(seen.length).toBeGreaterThanOrEqual(4);
  });

  it('goes on after a broken connection, in the same call', async () => {
    hub.breaks = [1_200_000];
    await (await open()).prepare(['model.safetensors']);
    expectSnapshot('model.safetensors');
    const starts = hub.downloads.map((d) => Number(/bytes=(\d+)/.exec(d)![1]));
    expect(starts[0]).toBe(0);
    expect(starts[1]).toBeGreaterThan(0);
  });

  it('goes on with what an earlier process left', async () => {
    hub.breaks = [1_000_000, 100_000];
    const error = await (await open()).prepare(['model.safetensors']).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelLoadError);
    const etag = etagOf(hub.files['model.safetensors']!);
    expect(blobs()).toEqual([`${etag}.incomplete`]);
    const left = fs.statSync(join(repoRoot(), 'blobs', `${etag}.incomplete`)).size;
    expect(left).toBeGreaterThan(0);
    expect(fs.existsSync(snapshot('model.safetensors'))).toBe(false);
    hub.requests = [];
    const seen: Progress[] = [];
    await (await open({ onProgress: (p) => void seen.push(p) })).prepare(['model.safetensors']);
    expect(hub.downloads).toEqual([`/cdn/model.safetensors bytes=${left}-2999999`]);
    expect(blobs()).toEqual([etag]);
    expectSnapshot('model.safetensors');
    expect(seen[0]!.done).toBeGreaterThanOrEqual(left);
  });

  it('starts anew when what was left is damaged or too long', async () => {
    const etag = etagOf(hub.files['model.safetensors']!);
    fs.mkdirSync(join(repoRoot(), 'blobs'), { recursive: true });
    for (const left of [bytes(500_000, 7), bytes(4_000_000)]) {
      fs.writeFileSync(join(repoRoot(), 'blobs', `${etag}.incomplete`), left);
      await (await open()).prepare(['model.safetensors']);
      expectSnapshot('model.safetensors');
      expect(blobs()).toEqual([etag]);
      fs.rmSync(join(repoRoot(), 'blobs', etag));
    }
  });

  it('resumes at a server that knows no ranges by skipping', async () => {
    hub.ranges = false;
    hub.breaks = [1_000_000];
    await (await open()).prepare(['model.safetensors']);
    expectSnapshot('model.safetensors');
  });

  it('is downloaded by several at once', async () => {
    await Promise.all(Array.from({ length: 4 }, async () => (await open()).prepare(Object.keys(hub.files))));
    expect(blobs()).toEqual([...new Set(Object.values(hub.files).map(etagOf))].sort());
    expectSnapshot('model.safetensors');
  });

  it('refuses content that is not what its hash promises', async () => {
    for (const path of ['model.safetensors', 'config.json']) {
      const length = etagOf(hub.files[path]!).length;
      const lie = 'ab'.repeat(length / 2);
      hub.lies = { [path]: length === 64 ? { lfs: { oid: lie, size: 1, pointerSize: 1 } } : { oid: lie } };
      const error = await (await open()).prepare([path]).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(FormatError);
      expect(String(error)).toContain(`expected content with hash ${lie}, got ${etagOf(hub.files[path]!)}`);
      expect(fs.existsSync(snapshot(path))).toBe(false);
      expect(blobs()).toEqual([]);
    }
  });

  it('can be cancelled, keeps what it has, and leaves no request running', async () => {
    const stop = new AbortController();
    hub.breaks = [800_000, 800_000];
    hub.onDownload = () => setTimeout(() => stop.abort(), 5);
    const repo = await open({ signal: stop.signal });
    await expect(repo.prepare(['model.safetensors', 'config.json'])).rejects.toThrow(AbortError);
    await expect(open({ signal: stop.signal })).rejects.toThrow(AbortError);
    await expect(repo.prepare(['model.safetensors'])).rejects.toThrow(AbortError);
  });

  it('leaves out files whose paths would leave the folder', async () => {
    hub.files = {
      ...hub.files,
      '../evil.json': { data: text('x') },
      '/etc/x': { data: text('x') },
      'a/../../x': { data: text('x') },
    };
    expect((await open()).files).toEqual([
      'config.json',
      'model.safetensors',
      'sub/copy.json',
      'empty.txt',
      'ümläut #1.txt',
    ]);
  });

  it.each([[{ size: -1 }], [{ size: 1e300 }], [{ oid: '../../etc/passwd' }], [{ oid: null }]])(
    'refuses a listing with %j',
    async (lie) => {
      hub.lies = { 'config.json': lie };
      await expect(open()).rejects.toThrow(/expected size and hash of the file/);
    },
  );
});

describe('access', () => {
  it('is asked for with the token, which no message shows', async () => {
    hub.token = 'hf_secret';
    await expect(open()).rejects.toThrow(/no such model, or a private one; check the name, or set HF_TOKEN/);
    const repo = await open({ tokenSource: 'literal:hf_secret' });
    expect(await textOf(repo, 'config.json')).toBe('{"a":1}');
    const wrong = await open({ tokenSource: 'literal:other_secret' }).catch((e: unknown) => e);
    expect(wrong).toBeInstanceOf(ModelLoadError);
    expect(String(wrong)).not.toContain('other_secret');
    hub.errorCode = 'GatedRepo';
    await expect(open()).rejects.toThrow(/access is restricted; accept the conditions/);
  });

  it('to what is not there is refused with what was looked for', async () => {
    await expect(openHubRepo('org/none', options)).rejects.toThrow(
      /org\/none \(revision main\): no such model on the hub/,
    );
    await expect(open({ revision: 'v9' })).rejects.toThrow(/knows the model, but not this revision/);
    await expect(open({ revision: '../x' })).rejects.toThrow(ConfigError);
    await expect(openHubRepo('../x', options)).rejects.toThrow(ConfigError);
    expect(hub.requests.length).toBe(2);
  });

  it('to something that is no hub gives a typed error', async () => {
    const pages = async (): Promise<Response> => new Response('<html>', { status: 200 });
    await expect(open({ fetch: pages })).rejects.toThrow(/expected an answer of the hub's API/);
    const empty = async (): Promise<Response> => Response.json({ id: 'org/tiny' });
    await expect(open({ fetch: empty })).rejects.toThrow(/expected a commit hash/);
    const shapeless = async (): Promise<Response> => Response.json({ sha: hub.commit });
    await expect(open({ fetch: shapeless })).rejects.toThrow(/expected an answer of the hub's API/);
  });

  it('is asked of the hub alone, and not without end', async () => {
    let asked = 0;
    const paged = (next: string) => async (): Promise<Response> => {
      if (asked++ === 0) return Response.json({ sha: hub.commit });
      return new Response('[]', { headers: { Link: `<${next}>; rel="next"` } });
    };
    await expect(open({ fetch: paged('https://elsewhere.example/next') })).rejects.toThrow(/expected the next page/);
    expect(asked).toBe(2);
    asked = 0;
    await expect(open({ fetch: paged('?cursor=1') })).rejects.toThrow(/expected at most 1000 pages/);
  });
});

describe('offline', () => {
  const offline = () => open({ offline: true });

  it('uses the cache and asks nobody', async () => {
    await (await open()).prepare(['config.json', 'sub/copy.json']);
    hub.requests = [];
    const repo = await offline();
    expect([...repo.files].sort()).toEqual(['config.json', 'sub/copy.json']);
    expect(await textOf(repo, 'sub/copy.json')).toBe('{"a":1}');
    const byCommit = await open({ offline: true, revision: hub.commit });
    expect(await textOf(byCommit, 'config.json')).toBe('{"a":1}');
    expect(hub.requests).toEqual([]);
  });

  it('names what is missing', async () => {
    await expect(offline()).rejects.toThrow(
      /org\/tiny \(revision main\): not in the cache at .*models--org--tiny, and offline mode/,
    );
    await (await open()).prepare(['config.json']);
    const repo = await offline();
    const error = await repo.prepare(['config.json', 'model.safetensors', 'x.json']).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelLoadError);
    expect(String(error)).toMatch(
      /org\/tiny: model.safetensors, x.json: not in the cache at .*offline mode \(HF_HUB_OFFLINE\) is on/,
    );
    // A link without its blob is a missing file.
    fs.rmSync(join(repoRoot(), 'blobs'), { recursive: true });
    await expect((await offline()).open('config.json')).rejects.toThrow(/not in the cache/);
  });

  it('is set by the environment', async () => {
    const platform = withEnv({ HF_HUB_CACHE: cache, HF_ENDPOINT: hub.endpoint, HF_HUB_OFFLINE: '1' });
    await expect(open({ platform })).rejects.toThrow(/HF_HUB_OFFLINE/);
    expect(hub.requests).toEqual([]);
  });

  it('is what remains when the hub cannot be reached', async () => {
    await (await open()).prepare(['config.json']);
    hub.stop();
    const repo = await open();
    expect(await textOf(repo, 'config.json')).toBe('{"a":1}');
    await expect(repo.open('model.safetensors')).rejects.toThrow(
      /model.safetensors: not in the cache at .*(ECONNREFUSED|fetch failed)/,
    );
  });

  it('does not follow a ref that is no commit', async () => {
    fs.mkdirSync(join(repoRoot(), 'refs'), { recursive: true });
    fs.writeFileSync(join(repoRoot(), 'refs', 'main'), '../../..');
    await expect(offline()).rejects.toThrow(/not in the cache/);
  });
});

describe('without files', () => {
  it('repositories are read over HTTP', async () => {
    const platform = webPlatform();
    const repo = await open({ platform, endpoint: hub.endpoint });
    expect(await textOf(repo, 'config.json')).toBe('{"a":1}');
    const source = await repo.open('model.safetensors');
    expect(await source.slice(2_500_000, 2_500_010)).toEqual(
      hub.files['model.safetensors']!.data.slice(2_500_000, 2_500_010),
    );
    await expect(open({ platform, endpoint: hub.endpoint, offline: true })).rejects.toThrow(/expected a connection/);
  });
});

describe('settings', () => {
  const dirOf = (env: Record<string, string>): string | undefined => hubSettings(withEnv(env)).cacheDir;

  it('follow the variables of the Python client', () => {
    expect(dirOf({})).toBe('/home/someone/.cache/huggingface/hub');
    expect(dirOf({ XDG_CACHE_HOME: '/x' })).toBe('/x/huggingface/hub');
    expect(dirOf({ XDG_CACHE_HOME: '/x', HF_HOME: '/h' })).toBe('/h/hub');
    expect(dirOf({ HF_HOME: '~/h', HUGGINGFACE_HUB_CACHE: '/old' })).toBe('/old');
    expect(dirOf({ HF_HOME: '~/h' })).toBe('/home/someone/h/hub');
    expect(dirOf({ HF_HUB_CACHE: '/c', HUGGINGFACE_HUB_CACHE: '/old', HF_HOME: '/h' })).toBe('/c');
    expect(dirOf({ HF_HUB_CACHE: ' ' })).toBe('/home/someone/.cache/huggingface/hub');
    expect(hubSettings(withEnv({ HF_HUB_CACHE: '/c' }), { cacheDir: '/mine' }).cacheDir).toBe('/mine');
    expect(hubSettings(withEnv({})).endpoint).toBe('https://huggingface.co');
    for (const on of ['1', 'true', 'ON', 'Yes'])
      expect(hubSettings(withEnv({ HF_HUB_OFFLINE: on })).offline).toBe(true);
    for (const off of ['', '0', 'no']) expect(hubSettings(withEnv({ HF_HUB_OFFLINE: off })).offline).toBe(false);
    expect(() => hubSettings({ ...withEnv({}), homeDir: () => undefined })).toThrow(/set HF_HOME/);
  });

  it('find the token at each of its sources', async () => {
    const saved = join(cache, 'token');
    fs.writeFileSync(saved, ' hf_saved\n');
    const token = (source: TokenSource | undefined, env: Record<string, string> = {}) =>
      hubToken(withEnv({ HF_HOME: cache, ...env }), source);
    expect(await token('none', { HF_TOKEN: 'a' })).toBeUndefined();
    expect(await token(undefined)).toBe('hf_saved');
    expect(await token('cache', { HF_HUB_TOKEN: 'b' })).toBe('b');
    expect(await token('cache', { HF_TOKEN: 'a', HF_HUB_TOKEN: 'b' })).toBe('a');
    expect(await token('cache', { HF_HOME: '/nowhere' })).toBeUndefined();
    expect(await token('cache', { HF_HOME: '/nowhere', HF_TOKEN_PATH: saved })).toBe('hf_saved');
    expect(await token('env', { HUGGING_FACE_HUB_TOKEN: 'c' })).toBe('c');
    expect(await token('env:MINE', { MINE: 'd' })).toBe('d');
    expect(await token('literal:e')).toBe('e');
    expect(await token(`path:${saved}`)).toBe('hf_saved');
    await expect(token('env:MINE')).rejects.toThrow(/expected the variable MINE to hold a token/);
    await expect(token('literal:')).rejects.toThrow(ConfigError);
    await expect(token('path:/nowhere')).rejects.toThrow(ModelLoadError);
    await expect(token('hf_oops' as TokenSource)).rejects.toThrow(/expected cache, none/);
    expect(await hubToken(withEnv({}, webPlatform()))).toBeUndefined();
  });

  it('know the form of an id', () => {
    for (const id of ['org/name', 'Org-1/name.v2_x', 'a/b']) expect(isHubId(id)).toBe(true);
    for (const id of [
      'name',
      './x',
      '../x',
      'a/b/c',
      '/a/b',
      'a//b',
      'a/',
      'a/-x',
      'a/b--c',
      'a/b..c',
      `a/${'x'.repeat(97)}`,
      'a b/c',
    ]) {
      expect(isHubId(id)).toBe(false);
    }
  });
});
