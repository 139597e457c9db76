/** Which part of the source may import which: the layers, and the free choice of back-end and model, rest on it. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../src/', import.meta.url));

/** First match counts. Entry points and the command line wire everything and may import everything. */
const rules: readonly { readonly from: RegExp; readonly to: RegExp }[] = [
  { from: /^core\//, to: /^core\// },
  { from: /^models\//, to: /^(core|models)\// },
  { from: /^quant\//, to: /^(core|quant)\// },
  { from: /^backends\//, to: /^(core|quant|backends)\// },
  { from: /^platform\//, to: /^(core|platform)\// },
  { from: /^server\//, to: /^(core|server)\// },
  { from: /^cli\//, to: /./ },
  { from: /^[\w.-]+\.ts$/, to: /./ },
];

const IMPORT =
  /(?:^|[\s;}])(?:import|export)\s*(?:type\s+)?(?:[\w*{][^'"`;]*?from\s*)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/g;

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return files(path);
    return entry.name.endsWith('.ts') ? [path] : [];
  });
}

function importsOf(text: string): string[] {
  return [...text.matchAll(IMPORT)].map((m) => (m[1] ?? m[2]) as string);
}

/** Edges that no rule allows, as `from → to`. */
function forbidden(file: string, imports: readonly string[]): string[] {
  const from = relative(root, file).replaceAll('\\', '/');
  const rule = rules.find((r) => r.from.test(from));
  if (!rule) return [`${from}: belongs to no layer`];
  return imports
    .filter((name) => name.startsWith('.'))
    .map((name) => relative(root, resolve(dirname(file), name)).replaceAll('\\', '/'))
    .filter((to) => !rule.to.test(to) || crossesBackends(from, to))
    .map((to) => `${from} → ${to}`);
}

/** A back-end knows no other. */
function crossesBackends(from: string, to: string): boolean {
  const backend = (path: string) => /^backends\/(\w+)\//.exec(path)?.[1];
  const [a, b] = [backend(from), backend(to)];
  return a !== undefined && b !== undefined && a !== b;
}

describe('layers', () => {
  it('no file imports what lies above or beside it', () => {
    const all = files(root);
    expect(all.length).toBeGreaterThan(50);
    expect(all.flatMap((file) => forbidden(file, importsOf(readFileSync(file, 'utf8'))))).toEqual([]);
  });

  it('only the platform, the command line and the entry points name Node modules', () => {
    const named = files(root)
      .map((file) => relative(root, file).replaceAll('\\', '/'))
      .filter((file) => !/^(platform|cli|server)\/|^[\w.-]+\.ts$/.test(file))
      .filter((file) => importsOf(readFileSync(join(root, file), 'utf8')).some((name) => name.startsWith('node:')));
    expect(named).toEqual([]);
  });

  it('the check sees imports of every form, and forbidden edges', () => {
    const text = `import a from './a.ts';\nimport type { B } from "./b.ts";\nexport * from './c.ts';
import {\n  d,\n  e,\n} from './d.ts';\nimport './f.ts';\nconst g = await import('./g.ts');\nexport { h } from './h.ts';`;
    expect(importsOf(text)).toEqual(['./a.ts', './b.ts', './c.ts', './d.ts', './f.ts', './g.ts', './h.ts']);
    expect(forbidden(join(root, 'core/x.ts'), ['../models/arch.ts', './y.ts'])).toEqual(['core/x.ts → models/arch.ts']);
    expect(forbidden(join(root, 'models/text/x.ts'), ['../../backends/cpu/index.ts'])).toHaveLength(1);
    expect(forbidden(join(root, 'backends/cpu/x.ts'), ['../reference/index.ts', '../../quant/index.ts'])).toEqual([
      'backends/cpu/x.ts → backends/reference/index.ts',
    ]);
  });
});
