/** The package as npm would publish it: what is in it, how large the main entry is, and that every door opens. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build, type Metafile } from 'esbuild';
import { beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  readonly version: string;
  readonly bin: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, unknown>>;
};

/** Of the main entry, gzipped, with everything it imports at once; larger parts are loaded when they are needed. */
const MAX_MAIN_BYTES = 200_000;

beforeAll(() => {
  if (!existsSync(join(root, 'dist/index.js'))) {
    throw new Error('dist/index.js: expected a build, found none; run `npm run build` first');
  }
});

/** All paths in an `exports` map. */
function paths(entry: unknown): string[] {
  if (typeof entry === 'string') return [entry];
  return Object.values(entry as Readonly<Record<string, unknown>>).flatMap(paths);
}

function node(...args: string[]): string {
  return execFileSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
}

describe('package', () => {
  it('holds the build, README and licence, and no model', () => {
    const printed = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: root,
      encoding: 'utf8',
      shell: process.platform === 'win32',
    });
    const [pack] = JSON.parse(printed) as readonly [
      { readonly files: readonly { readonly path: string }[]; readonly size: number },
    ];
    const names = pack.files.map((f) => f.path);
    const others = names.filter((name) => !/^dist\/(browser\/)?[\w.-]+\.(js|cjs|d\.ts|d\.cts)(\.map)?$/.test(name));
    expect(others.sort()).toEqual(['LICENSE', 'README.md', 'package.json']);
    expect(pack.size).toBeLessThan(3_000_000);
  }, 120_000);

  it('every export and command exists', () => {
    const listed = [...paths(manifest.exports), ...Object.values(manifest.bin)];
    expect(listed.length).toBeGreaterThan(10);
    expect(listed.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    const [cli = ''] = Object.values(manifest.bin);
    expect(readFileSync(join(root, cli), 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
    expect(statSync(join(root, cli)).mode & 0o111).not.toBe(0);
  });

  it.each(['dist/index.js', 'dist/browser/index.js'])(
    'the main entry is small: %s',
    async (entry) => {
      const { metafile, outputFiles } = await build({
        entryPoints: [join(root, entry)],
        absWorkingDir: root,
        bundle: true,
        splitting: true,
        minify: true,
        format: 'esm',
        platform: 'browser',
        // Imported only where they exist, by what is loaded later; browsers never see them.
        external: entry.includes('browser') ? [] : ['node:*'],
        logLevel: 'error',
        outdir: 'out',
        write: false,
        metafile: true,
      });
      const code = new Map(outputFiles.map((f) => [f.path, f.contents]));
      const names = atOnce(metafile.outputs, 'out/index.js');
      const imports = names.flatMap((name) => metafile.outputs[name]?.imports ?? []);
      expect(imports.filter((i) => i.external)).toEqual([]);
      expect(imports.some((i) => i.kind === 'dynamic-import')).toBe(true);
      const bytes = names.map((name) => gzipSync(code.get(join(root, name)) ?? '').length);
      expect(bytes[0]).toBeGreaterThan(1000);
      const total = bytes.reduce((n, x) => n + x, 0);
      expect(total).toBeGreaterThan(10_000);
      expect(total).toBeLessThan(MAX_MAIN_BYTES);
    },
    120_000,
  );

  const entries = Object.keys(manifest.exports).filter((name) => !name.endsWith('.json'));

  it('every entry has the same names as ES module and as CommonJS', () => {
    for (const entry of entries) {
      const name = entry.replace('.', 'tramontane');
      const imported = node(
        '--input-type=module',
        '-e',
        `console.log(Object.keys(await import('${name}')).sort().join())`,
      );
      const required = node('-e', `console.log(Object.keys(require('${name}')).sort().join())`);
      expect(required).toBe(imported);
      expect(imported.split(',').length).toBeGreaterThan(2);
    }
  }, 120_000);

  it('works by `require`', () => {
    const program = `const { loadModel } = require('tramontane');
(async () => {
  const model = await loadModel('smollm2-135m-instruct', { offline: true });
  console.log((await model.complete('One, two, three,', { sampling: { topK: 1, maxLen: 4 } })).choices[0].text);
  await model.dispose();
})();`;
    expect(node('-e', program).trim()).not.toBe('');
  }, 240_000);

  it('the command line knows its version', () => {
    expect(node('dist/cli.js', '--version').trim()).toBe(manifest.version);
  }, 60_000);

  it('errors of one copy are errors of the other', () => {
    const program = `import { createRequire } from 'node:module';
import { FormatError, TramontaneError } from 'tramontane';
const other = createRequire(import.meta.url)('tramontane');
console.log(other.FormatError === FormatError, new other.FormatError('x') instanceof TramontaneError);`;
    expect(node('--input-type=module', '-e', program.replace('import.meta.url', `'file://${root}/x.mjs'`)).trim()).toBe(
      'false true',
    );
  }, 60_000);

  it.each(['package-lock.json', 'test/runtime/package-lock.json'])('%s names no registry', (name) => {
    expect(readFileSync(join(root, name), 'utf8')).not.toContain('"resolved"');
  });

  it.each(['package-lock.json', 'test/runtime/package-lock.json'])(
    '%s knows the binaries of every platform',
    (name) => {
      const { packages } = JSON.parse(readFileSync(join(root, name), 'utf8')) as {
        readonly packages: Readonly<
          Record<string, { readonly optionalDependencies?: Readonly<Record<string, string>> }>
        >;
      };
      // npm leaves out what its registry does not serve; `npm ci` refuses such a file.
      const optional = Object.values(packages).flatMap((p) => Object.keys(p.optionalDependencies ?? {}));
      expect(optional.length).toBeGreaterThan(3);
      expect(optional.filter((name) => packages[`node_modules/${name}`] === undefined)).toEqual([]);
    },
  );
});

/** An output and everything it imports by statement. */
function atOnce(outputs: Metafile['outputs'], name: string, seen = new Set<string>()): string[] {
  if (seen.has(name)) return [];
  seen.add(name);
  const imports = outputs[name]?.imports ?? [];
  const direct = imports.filter((i) => i.kind === 'import-statement' && !i.external);
  return [name, ...direct.flatMap(({ path }) => atOnce(outputs, path, seen))];
}
