import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { defineConfig, type Options } from 'tsup';

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };

/** The commit this build is of, where there is a repository and git. */
function commit(): string {
  try {
    const git = (...args: string[]) =>
      execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return (
      git('rev-parse', '--short', 'HEAD').trim() + (git('status', '--porcelain', '--', 'src').trim() ? '-dirty' : '')
    );
  } catch {
    return 'unknown';
  }
}

const library = { index: 'src/index.ts', core: 'src/entry-core.ts', quant: 'src/entry-quant.ts' };
const shared: Options = {
  target: 'es2022',
  // Runs in browsers too; node: modules are imported only where they exist.
  platform: 'neutral',
  external: [/^node:/],
  sourcemap: true,
  outDir: 'dist',
  define: { __TRAMONTANE_VERSION__: JSON.stringify(version), __TRAMONTANE_COMMIT__: JSON.stringify(commit()) },
};

export default defineConfig([
  {
    ...shared,
    format: 'esm',
    entry: { ...library, cli: 'src/cli/index.ts' },
    // Parts that are imported when needed stay files of their own.
    splitting: true,
    clean: true,
    // Parsed with the command line in one file, instead of being looked up in node_modules at every start.
    noExternal: ['commander'],
    platform: 'node',
    banner: ({ format }) => (format === 'esm' ? {} : {}),
  },
  { ...shared, format: 'cjs', entry: library, splitting: true },
  { ...shared, format: ['esm', 'cjs'], entry: library, dts: { only: true }, sourcemap: false },
]);
