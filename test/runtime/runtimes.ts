/** The runtimes that the package is tried in: where they are, and why one is not. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const modules = fileURLToPath(new URL('./node_modules', import.meta.url));

export interface Runtime {
  readonly name: string;
  /** The program and its first arguments; `undefined` where it is not installed. */
  readonly command: readonly string[] | undefined;
  readonly program: 'module.mjs' | 'require.cjs';
}

/** A binary out of this folder's packages, else one on the search path. */
function binary(path: string, command?: string): string | undefined {
  const installed = join(modules, path);
  if (existsSync(installed)) return installed;
  const folders = command === undefined ? [] : (process.env['PATH'] ?? '').split(delimiter);
  return folders.map((folder) => join(folder, command as string)).find((file) => existsSync(file));
}

function nodes(): Runtime[] {
  const [own] = process.versions.node.split('.');
  const found = new Map([[`Node ${own}`, process.execPath as string | undefined]]);
  for (const major of ['22', '24']) {
    if (major !== own) found.set(`Node ${major}`, binary(`node${major}/bin/node`));
  }
  return [...found].flatMap(([name, file]) => {
    const command = file === undefined ? undefined : [file];
    return [
      { name: `${name}, ES module`, command, program: 'module.mjs' },
      { name: `${name}, CommonJS`, command, program: 'require.cjs' },
    ] as const;
  });
}

/** Everything that is no browser. The Node that runs the tests stands for its own version. */
export function serverRuntimes(): Runtime[] {
  const run = (file: string | undefined, ...args: string[]) => (file === undefined ? undefined : [file, ...args]);
  return [
    ...nodes(),
    {
      name: 'Deno',
      command: run(binary('deno/deno', 'deno'), 'run', '--allow-all', '--no-lock'),
      program: 'module.mjs',
    },
    { name: 'Bun', command: run(binary('bun/bin/bun', 'bun'), 'run'), program: 'module.mjs' },
  ];
}

export const NOT_INSTALLED = 'not installed: run `npm ci --prefix test/runtime`';

interface RunOptions {
  readonly cwd: string;
}

/** What a program printed. Rejects with all of its output when it did not end well. */
export function outputOf(command: readonly string[], options: RunOptions): Promise<string> {
  const [file = '', ...args] = command;
  return new Promise((done, fail) => {
    execFile(file, args, { ...options, timeout: 500_000, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      if (error === null) done(stdout);
      else fail(new Error(`${error.message}\n${stdout}\n${stderr}`));
    });
  });
}

/** What a program printed as `RESULT …`. */
export async function resultOf(command: readonly string[], options: RunOptions): Promise<unknown> {
  const output = await outputOf(command, options);
  const line = /^RESULT (.*)$/m.exec(output)?.[1];
  if (line === undefined) throw new Error(`${command.join(' ')}: expected a result, got\n${output}`);
  return JSON.parse(line);
}
