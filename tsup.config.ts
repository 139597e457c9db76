import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { defineConfig, type Options } from 'tsup';

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };

/** The commit this build is of, where there is a repository and git. */
function commit(): string {
  const git = (...args: string[]) => execFileSync('git', args, { encoding: 'utf8', stdio: 'pipe' }).trim();
  try {
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '--', 'src') ? '-dirty' : '');
  } catch {
    return 'unknown';
  }
}

const library = { index: 'src/index.ts', core: 'src/entry-core.ts', quant: 'src/entry-quant.ts' };
/** Runs in the threads that pack weights; found by its name beside the library. */
const packer = { packer: 'src/quant/isq/packRows.ts' };
/** The library as the command line sees it: built on its own, so that one copy serves both. */
const built = new Map(Object.entries(library).map(([name, file]) => [file.replace('src/', '../'), `./${name}.js`]));

const shared: Options = {
  target: 'es2022',
  // For browsers too: modules of Node are imported only where they exist.
  platform: 'neutral',
  external: [/^node:/],
  // Deno finds them by their full names only.
  removeNodeProtocol: false,
  // Parts that are imported when they are needed stay files of their own.
  splitting: true,
  sourcemap: true,
};

// All builds share the folder, so none of them may clean it.
rmSync('dist', { recursive: true, force: true });

export default defineConfig(({ dts }) => [
  { ...shared, format: 'esm', entry: { ...library, ...packer } },
  // A module of CommonJS has no import.meta.url; the shim gives it one.
  { ...shared, format: 'cjs', entry: library, shims: true },
  // What the condition `browser` of package.json leads to; bundlers for the web follow it.
  {
    ...shared,
    format: 'esm',
    entry: { ...library, ...packer },
    outDir: 'dist/browser',
    esbuildPlugins: [
      {
        name: 'browser-platform',
        setup(build) {
          build.onResolve({ filter: /\/detect\.ts$/ }, () => ({ path: resolve('src/platform/detectBrowser.ts') }));
        },
      },
    ],
  },
  // `--no-dts` leaves the types out, for a quick start.
  ...(dts === false ? [] : [{ ...shared, format: ['esm', 'cjs'], entry: library, dts: { only: true } } as Options]),
  {
    ...shared,
    format: 'esm',
    entry: { cli: 'src/cli/index.ts' },
    platform: 'node',
    define: { __TRAMONTANE_VERSION__: JSON.stringify(version), __TRAMONTANE_COMMIT__: JSON.stringify(commit()) },
    // In one file with the command line, instead of being looked up in node_modules at every start.
    noExternal: ['commander'],
    banner: { js: "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);" },
    esbuildPlugins: [
      {
        name: 'built-library',
        setup(build) {
          build.onResolve({ filter: /^\.\.\// }, ({ path }) => {
            const target = built.get(path);
            return target === undefined ? undefined : { path: target, external: true };
          });
        },
      },
    ],
  },
]);
