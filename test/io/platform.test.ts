import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError, ModelLoadError, UnsupportedError } from '../../src/core/errors.ts';
import { openSource } from '../../src/core/io/open.ts';
import { baseName, dirName, isSafeFileName, isSafeRelativePath, joinPath } from '../../src/core/io/path.ts';
import type { Platform } from '../../src/core/platform.ts';
import { detectPlatform } from '../../src/platform/detect.ts';
import { nodePlatform } from '../../src/platform/node.ts';
import { webPlatform } from '../../src/platform/web.ts';
import { fixture } from './build.ts';

const platform: Platform = nodePlatform();
let folder = '';
beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'platform-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true }));
const file = (name: string, content: string | Uint8Array): string => {
  const path = join(folder, name);
  fs.writeFileSync(path, content);
  return path;
};

describe('files', () => {
  it('are read by range, into shared memory too, several reads at once', async () => {
    const content = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7) % 251);
    const source = await platform.openFile(file('a', content));
    expect(source.size).toBe(content.length);
    expect(await source.slice(10, 20)).toEqual(content.slice(10, 20));
    const shared = new Uint8Array(new SharedArrayBuffer(100_000));
    await Promise.all(
      Array.from({ length: 10 }, (_, i) => source.readInto(i * 10_000, shared.subarray(i * 10_000, (i + 1) * 10_000))),
    );
    expect(Array.from(shared)).toEqual(Array.from(content));
    expect(await source.slice(5, 5)).toEqual(new Uint8Array(0));
    await source.close();
    await source.close();
  });

  it('are read beyond 4 GiB', async () => {
    const path = file('sparse', '');
    const at = 4.5 * 2 ** 30;
    const fd = fs.openSync(path, 'r+');
    fs.writeSync(fd, 'beyond', at);
    fs.closeSync(fd);
    const source = await platform.openFile(path);
    expect(source.size).toBe(at + 6);
    expect(new TextDecoder().decode(await source.slice(at, at + 6))).toBe('beyond');
    expect(Array.from(await source.slice(2 ** 32, 2 ** 32 + 2))).toEqual([0, 0]);
    await source.close();
    fs.rmSync(path);
  });

  it('refuse ranges that they do not have', async () => {
    const source = await platform.openFile(file('b', 'abc'));
    for (const [start, end] of [
      [0, 4],
      [-1, 2],
      [2, 1],
      [0.5, 2],
      [0, Number.NaN],
      [0, 2 ** 60],
    ] as const) {
      await expect(source.slice(start, end)).rejects.toThrow(FormatError);
    }
    await expect(source.readInto(2, new Uint8Array(2))).rejects.toThrow(/expected a range within 3 bytes, got 2 to 4/);
    await source.close();
    await expect(source.slice(0, 1)).rejects.toThrow(/read after close/);
  });

  it('notice when they are cut while open', async () => {
    const path = file('c', 'x'.repeat(100));
    const source = await platform.openFile(path);
    fs.truncateSync(path, 40);
    await expect(source.slice(0, 100)).rejects.toThrow(/expected 100 bytes at 0, the file ends at 40/);
    await source.close();
  });

  it('close only when the reads under way have ended', async () => {
    const source = await platform.openFile(file('d', new Uint8Array(8_000_000).fill(5)));
    const reads = Array.from({ length: 8 }, (_, i) => source.slice(i * 1_000_000, (i + 1) * 1_000_000));
    await source.close();
    for (const bytes of await Promise.all(reads)) expect(bytes[999_999]).toBe(5);
  });

  it('are refused when they are none', async () => {
    await expect(platform.openFile(join(folder, 'absent'))).rejects.toThrow(/absent: no such file/);
    await expect(platform.openFile(folder)).rejects.toThrow(/expected a file, got a folder/);
    await expect(platform.openFile(`${fixture('README.md')}/x`)).rejects.toThrow(ModelLoadError);
    await expect(platform.openFile('a\0b')).rejects.toThrow(ModelLoadError);
    if (process.platform !== 'win32') {
      const pipe = join(folder, 'pipe');
      execFileSync('mkfifo', [pipe]);
      await expect(platform.openFile(pipe)).rejects.toThrow(/got a special file/);
    }
  });

  it('are written whole, at positions, renamed, linked, listed and removed', async () => {
    const path = join(folder, 'new', 'deep', 'f.txt');
    await platform.writeFile(path, 'hällo');
    await platform.writeFile(path, 'hällo 2');
    expect(await platform.readText(path, 100)).toBe('hällo 2');
    await expect(platform.readText(path, 3)).rejects.toThrow(/expected at most 3 bytes of text, got 8/);
    expect(fs.readdirSync(join(folder, 'new', 'deep'))).toEqual(['f.txt']);

    const writer = await platform.openWriter(path);
    expect(writer.size).toBe(8);
    await writer.write(8, new TextEncoder().encode('345'));
    await writer.write(0, new TextEncoder().encode('H'));
    await writer.truncate(10);
    const start = new Uint8Array(5);
    await writer.readInto(1, start);
    expect(new TextDecoder().decode(start)).toBe('ällo');
    await expect(writer.readInto(9, start)).rejects.toThrow(FormatError);
    await writer.close();
    expect(await platform.readText(path, 100)).toBe('Hällo 234');

    const link = join(folder, 'links', 'l.txt');
    await platform.link(path, link);
    await platform.link(path, link);
    expect(fs.readlinkSync(link)).toBe('../new/deep/f.txt');
    expect(await platform.readText(link, 100)).toBe('Hällo 234');
    expect(await platform.realPath(link)).toBe(fs.realpathSync(path));
    expect(await platform.listDir(join(folder, 'new'))).toEqual([{ name: 'deep', kind: 'directory' }]);
    expect(await platform.listDir(join(folder, 'links'))).toEqual([{ name: 'l.txt', kind: 'other' }]);
    expect(await platform.stat(link)).toEqual({ kind: 'file', size: 10 });

    await platform.rename(path, `${path}.moved`);
    expect(await platform.exists(path)).toBe(false);
    expect(await platform.exists(link)).toBe(false);
    await platform.remove(`${path}.moved`);
    await platform.remove(`${path}.moved`);
    await expect(platform.listDir(path)).rejects.toThrow(/no such file or folder/);
  });
});

describe('facts', () => {
  it('of the machine', async () => {
    expect(platform.runtime).toBe('node');
    expect(platform.hardwareConcurrency()).toBeGreaterThan(0);
    const memory = platform.memory();
    expect(memory.totalBytes).toBeGreaterThan(2 ** 28);
    expect(memory.freeBytes).toBeGreaterThan(0);
    expect(memory.peakRssBytes).toBeGreaterThanOrEqual(memory.rssBytes! * 0.9);
    expect(platform.homeDir()).toBeTruthy();
    expect(platform.env('PATH')).toBe(process.env['PATH']);
    expect(platform.env('SURELY_NOT_SET')).toBeUndefined();
    expect(typeof platform.isTerminal('stdout')).toBe('boolean');
    const hasher = await platform.hasher('sha256');
    hasher.update(new TextEncoder().encode('a'));
    hasher.update(new TextEncoder().encode('bc'));
    expect(hasher.digest()).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
  });

  it('chooses the platform by what the runtime has', async () => {
    expect((await detectPlatform()).hasFiles).toBe(true);
  });

  it('says what a browser lacks', async () => {
    const web = webPlatform();
    await expect(web.openFile('x')).rejects.toThrow(UnsupportedError);
    await expect(web.readText('x', 1)).rejects.toThrow(/no file system; pass a URL, a Blob or bytes/);
    expect(web.hardwareConcurrency()).toBeGreaterThan(0);
    expect(web.env('HOME')).toBeUndefined();
    expect(web.memory().peakRssBytes).toBeUndefined();
  });
});

describe('paths', () => {
  it('are joined and cut', () => {
    expect(joinPath('a', 'b/', '', 'c')).toBe('a/b/c');
    expect(joinPath('/', 'x')).toBe('/x');
    expect([baseName('a/b\\c'), baseName('c'), dirName('/a'), dirName('a/b'), dirName('a')]).toEqual([
      'c',
      'c',
      '/',
      'a',
      '.',
    ]);
  });

  it('from foreign lists stay inside their folder', () => {
    for (const good of ['a', 'a/b.txt', '..a', 'ä b']) expect(isSafeRelativePath(good)).toBe(true);
    for (const bad of [
      '',
      '/a',
      'a/',
      'a//b',
      '.',
      'a/..',
      '../a',
      'a/./b',
      'C:/a',
      'a\\b',
      'a\nb',
      'x'.repeat(2000),
    ]) {
      expect(isSafeRelativePath(bad)).toBe(false);
    }
    expect(isSafeFileName('a/b')).toBe(false);
  });
});

describe('openSource', () => {
  const read = async (input: Parameters<typeof openSource>[0]): Promise<string> => {
    const source = await openSource(input, { platform });
    return new TextDecoder().decode((await source.slice(1, source.size)).slice());
  };
  it('takes paths, file URLs, blobs, bytes of any kind and sources', async () => {
    const path = file('x y', 'abc');
    const shared = new SharedArrayBuffer(3);
    new Uint8Array(shared).set([97, 98, 99]);
    const inputs = [
      ...[path, new URL(`file://${path.replace(' ', '%20')}`), `file://${path.replace(' ', '%20')}`],
      ...[new Blob(['abc']), new TextEncoder().encode('abc'), Buffer.from('abc'), shared],
      ...[new TextEncoder().encode('abc').buffer, await platform.openFile(path)],
    ];
    for (const input of inputs) expect(await read(input)).toBe('bc');
  });

  it('refuses a path without a platform', async () => {
    await expect(openSource('x')).rejects.toThrow(UnsupportedError);
  });

  it('reads blobs by range and refuses what they do not have', async () => {
    const source = await openSource(new Blob(['hello ', 'world']));
    const target = new Uint8Array(new SharedArrayBuffer(5));
    await source.readInto(6, target);
    expect(new TextDecoder().decode(target.slice())).toBe('world');
    await expect(source.slice(6, 12)).rejects.toThrow(FormatError);
    const bytes = await openSource(new Uint8Array(4));
    await expect(bytes.readInto(2, new Uint8Array(3))).rejects.toThrow(FormatError);
  });
});
