/** Before all: the package as npm would install it, beside the programs. After all: the matrix. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { APP, root } from './app.ts';
import { clearMatrix, printMatrix } from './matrix.ts';

const here = join(root, 'test/runtime');

/** Lays the folder `APP` anew. */
export function setup(): void {
  if (!existsSync(join(root, 'dist/index.js'))) {
    throw new Error('dist/index.js: expected a build, found none; run `npm run build` first');
  }
  clearMatrix();
  rmSync(APP, { recursive: true, force: true });
  const modules = join(APP, 'node_modules');
  mkdirSync(modules, { recursive: true });
  execFileSync('npm', ['pack', '--ignore-scripts', '--pack-destination', modules], { cwd: root, stdio: 'pipe' });
  const archive = readdirSync(modules).find((name) => name.endsWith('.tgz')) ?? '';
  execFileSync('tar', ['-xzf', archive], { cwd: modules });
  cpSync(join(modules, 'package'), join(modules, 'tramontane'), { recursive: true });
  rmSync(join(modules, 'package'), { recursive: true });
  rmSync(join(modules, archive));
  cpSync(join(here, 'smoke.mjs'), join(APP, 'smoke.mjs'));
  cpSync(join(here, 'programs'), APP, { recursive: true });
  // Deno takes packages out of node_modules where a package.json asks for them.
  writeFileSync(join(APP, 'package.json'), '{ "private": true, "dependencies": { "tramontane": "*" } }\n');
}

export function teardown(): void {
  printMatrix();
}
