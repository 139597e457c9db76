/** The programs of these tests, put into bundles as an application would do it: nothing said about the package. */
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build as esbuild } from 'esbuild';
import { APP } from './app.ts';

/** Bundles by name, each with the page `bundled.html` or the program `module.mjs`. */
export const BUNDLES = join(dirname(APP), 'bundles');

export interface Bundler {
  readonly name: string;
  readonly runs: 'node' | 'browser';
  /** `undefined` where the bundler is not installed. Rejects with its complaints. */
  readonly bundle: ((folder: string) => Promise<void>) | undefined;
}

interface ViteServer {
  readonly resolvedUrls: { readonly local: readonly string[] } | null;
  listen(): Promise<unknown>;
  close(): Promise<void>;
}

interface Vite {
  build(config: object): Promise<unknown>;
  createServer(config: object): Promise<ViteServer>;
}

type Webpack = (
  config: object,
  done: (error: Error | null, stats?: { hasErrors(): boolean; hasWarnings(): boolean; toString(): string }) => void,
) => void;

const modules = fileURLToPath(new URL('./node_modules', import.meta.url));

/** The main module of an optional package; its types are not there where it is not installed. */
function optional<T>(file: string): (() => Promise<T>) | undefined {
  const path = join(modules, file);
  return existsSync(path) ? async () => (await import(pathToFileURL(path).href)) as T : undefined;
}

const vite = optional<Vite>('vite/dist/node/index.js');
const webpack = optional<{ readonly default: Webpack }>('webpack/lib/index.js');

export const bundlers: readonly Bundler[] = [
  {
    name: 'esbuild',
    runs: 'node',
    bundle: (folder) => withEsbuild('module.mjs', folder, { platform: 'node', outExtension: { '.js': '.mjs' } }),
  },
  {
    name: 'esbuild',
    runs: 'browser',
    async bundle(folder) {
      await withEsbuild('page.mjs', folder, { platform: 'browser', minify: true, outExtension: { '.js': '.mjs' } });
      cpSync(join(APP, 'bundled.html'), join(folder, 'bundled.html'));
    },
  },
  {
    name: 'Vite',
    runs: 'browser',
    bundle:
      vite &&
      (async (folder) => {
        const build = { outDir: folder, emptyOutDir: true, rollupOptions: { input: join(APP, 'bundled.html') } };
        await (await vite()).build({ root: APP, base: './', logLevel: 'warn', configFile: false, build });
      }),
  },
  {
    name: 'webpack',
    runs: 'browser',
    bundle:
      webpack &&
      (async (folder) => {
        await withWebpack((await webpack()).default, './page.mjs', folder);
      }),
  },
  {
    name: 'webpack, in a worker',
    runs: 'browser',
    bundle:
      webpack &&
      (async (folder) => {
        await withWebpack((await webpack()).default, './withWorker.mjs', folder);
      }),
  },
];

async function withWebpack(run: Webpack, entry: string, folder: string): Promise<void> {
  const output = { path: folder, filename: 'page.mjs', module: true, chunkFormat: 'module' };
  const config = { mode: 'production', context: APP, entry: { main: entry }, experiments: { outputModule: true } };
  await new Promise<void>((done, fail) =>
    run({ ...config, output, performance: false }, (error, stats) => {
      if (error) fail(error);
      else if (stats?.hasErrors() || stats?.hasWarnings()) fail(new Error(stats.toString()));
      else done();
    }),
  );
  cpSync(join(APP, 'bundled.html'), join(folder, 'bundled.html'));
}

/** Vite as it serves during development; `undefined` where it is not installed. Stop it by `close`. */
export const developWithVite =
  vite &&
  (async (headers: Readonly<Record<string, string>>): Promise<{ page: string; close(): Promise<void> }> => {
    const server = await (await vite()).createServer({
      root: APP,
      logLevel: 'warn',
      configFile: false,
      cacheDir: join(BUNDLES, 'vite-cache'),
      server: { host: '127.0.0.1', headers, watch: null, hmr: false },
    });
    await server.listen();
    return { page: `${server.resolvedUrls?.local[0] ?? ''}bundled.html`, close: () => server.close() };
  });

async function withEsbuild(entry: string, folder: string, options: Parameters<typeof esbuild>[0]): Promise<void> {
  const { warnings } = await esbuild({
    ...options,
    entryPoints: [join(APP, entry)],
    absWorkingDir: APP,
    outdir: folder,
    bundle: true,
    splitting: true,
    format: 'esm',
    target: 'es2022',
    logLevel: 'silent',
  });
  if (warnings.length > 0) throw new Error(JSON.stringify(warnings, undefined, 1));
}

/** An empty folder for a bundle. */
export function freshFolder(name: string): string {
  const folder = join(BUNDLES, name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  return folder;
}
