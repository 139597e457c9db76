/** README and CONTRIBUTING: their programs compile, and run where they are marked `ts run`; tables, options and names are real. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Command } from 'commander';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { program } from '../src/cli/main.ts';
import { modelTables } from '../src/cli/modelTables.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (name: string) => readFileSync(join(root, name), 'utf8');
const readme = read('README.md');
const documents = ['README.md', 'CONTRIBUTING.md'];

interface Block {
  /** `README.md:12` */
  readonly where: string;
  readonly info: string;
  readonly code: string;
}

function blocksOf(name: string, text: string): Block[] {
  const blocks = [...text.matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)];
  return blocks.map((m) => ({
    where: `${name}:${text.slice(0, m.index).split('\n').length}`,
    info: m[1] ?? '',
    code: m[2] ?? '',
  }));
}

/** What a reader has in front of a snippet: the model that the first program loads. */
function complete({ code }: Block): string {
  if (!/\bmodel\./.test(code) || /\bconst model\b/.test(code)) return code;
  return `import { loadModel } from 'tramontane';
const model = await loadModel('smollm2-135m-instruct');
${code}
await model.dispose();
`;
}

const programs = documents.flatMap((name) => blocksOf(name, read(name))).filter((b) => /^ts\b/.test(b.info));

describe('programs in the documents', () => {
  it('are found', () => {
    expect(programs.length).toBeGreaterThan(5);
    expect(programs.filter((b) => b.info === 'ts run').length).toBeGreaterThan(4);
  });

  it('compile', () => {
    // The check sees mistakes: a wrong type, a name that is not exported.
    const wrong = [
      "import { loadModel } from 'tramontane';\nconst n: number = await loadModel('x');",
      "import { loadModels } from 'tramontane';\nloadModels();",
    ].map((code, i) => ({ where: `wrong ${i}`, info: 'ts', code }));
    const errors = typeErrors([...programs, ...wrong]);
    expect(errors.filter((e) => !e.startsWith('wrong'))).toEqual([]);
    expect(errors.map((e) => e.slice(0, 'wrong 0'.length))).toEqual(['wrong 0', 'wrong 1']);
  }, 240_000);

  it('the first one is short and runs as it stands', () => {
    const [first] = programs;
    expect(first?.info).toBe('ts run');
    expect(first?.code.trim().split('\n').length).toBeLessThan(10);
    expect(complete(first as Block)).toBe(first?.code);
    // Pasted into a file of plain JavaScript.
    const { outputText } = ts.transpileModule(first?.code ?? '', {
      compilerOptions: { target: ts.ScriptTarget.ESNext, module: ts.ModuleKind.ESNext },
    });
    const squeeze = (text: string) => text.replace(/\s+/g, '');
    expect(squeeze(outputText)).toBe(squeeze(first?.code ?? ''));
  });
});

describe('programs marked `ts run`', () => {
  const folder = join(root, '.cache', 'docs');
  beforeAll(() => {
    if (!existsSync(join(root, 'dist/index.js'))) {
      throw new Error('dist/index.js: expected a build, found none; run `npm run build` first');
    }
    mkdirSync(folder, { recursive: true });
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  for (const block of programs.filter((b) => b.info === 'ts run')) {
    it(block.where, async () => {
      const file = join(folder, `${block.where.replace(/\W/g, '-')}.mjs`);
      const { outputText } = ts.transpileModule(complete(block), {
        compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
      });
      writeFileSync(file, outputText);
      const { error, stdout, stderr } = await execute(file);
      expect({ error, stderr }).toEqual({ error: null, stderr: '' });
      if (/console\.log|stdout\.write/.test(block.code)) expect(stdout.trim()).not.toBe('');
    }, 240_000);
  }
});

describe('facts in the README', () => {
  it('the tables are those of `tramontane models --markdown`', () => {
    const tables = /<!-- tables -->\n([\s\S]*?)\n<!-- \/tables -->/.exec(readme)?.[1];
    expect(tables).toBe(modelTables());
  });

  it('every option of a command line exists', () => {
    const lines = blocksOf('README.md', readme)
      .flatMap((b) => b.code.split('\n'))
      .filter((line) => line.startsWith('tramontane '));
    expect(lines.length).toBeGreaterThan(4);
    expect(lines.flatMap(unknownOptions)).toEqual([]);
    expect(unknownOptions('tramontane run --no-such "x"')).toEqual(['run --no-such']);
    expect(unknownOptions('tramontane fly')).toEqual(['fly']);
  });

  it('every script, file and variable it names exists', () => {
    const { scripts } = JSON.parse(read('package.json')) as { readonly scripts: Readonly<Record<string, string>> };
    const text = documents.map(read).join('\n');
    const called = [...text.matchAll(/\bnpm run ([\w:]+)|\bnpm (start|test)\b/g)].map((m) => m[1] ?? m[2]);
    expect(called.filter((name) => scripts[name as string] === undefined)).toEqual([]);
    const paths = [...text.matchAll(/(?:^|[\s`(])((?:src|test|bench|models|\.ci)\/[\w./*<>-]*\w)/gm)]
      .map((m) => m[1] as string)
      .filter((path) => !/[*<]/.test(path) && !['models/my.gguf', 'models/Qwen3-0.6B'].includes(path));
    expect(paths.length).toBeGreaterThan(10);
    expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    const sources = files(join(root, 'src'))
      .map((file) => readFileSync(file, 'utf8'))
      .join('\n');
    const variables = [...readme.matchAll(/`((?:HF|TRAMONTANE)_\w+)`/g)].map((m) => m[1] as string);
    expect(variables.length).toBeGreaterThan(6);
    expect(variables.filter((name) => !sources.includes(`'${name}'`))).toEqual([]);
  });

  it('every error class it names is exported', async () => {
    const errors = await import('../src/core/errors.ts');
    const named = [...readme.matchAll(/`(\w+Error)`/g)].map((m) => m[1] as string);
    expect(named.length).toBeGreaterThan(6);
    expect(named.filter((name) => !(name in errors))).toEqual([]);
  });

  it('the benchmarks know the options it names', () => {
    const sources = ['bench/run.ts', 'bench/peers/run.ts', 'bench/webgpu.ts'].map(read).join('\n');
    const paragraphs = readme.split(/\n\n+/).filter((p) => p.includes('npm run bench:'));
    const flags = paragraphs.flatMap((p) => [...p.matchAll(/`--([\w-]+)/g)].map((m) => m[1] as string));
    expect(flags.length).toBeGreaterThan(0);
    expect(flags.filter((flag) => !new RegExp(`^\\s+'?${flag}'?: \\{ type:`, 'm').test(sources))).toEqual([]);
  });
});

/** Runs a program in the checkout, without the network. */
function execute(file: string): Promise<{ error: Error | null; stdout: string; stderr: string }> {
  const options = { cwd: root, timeout: 200_000, env: { ...process.env, HF_HUB_OFFLINE: '1' } };
  return new Promise((done) => {
    execFile(process.execPath, [file], options, (error, stdout, stderr) => done({ error, stdout, stderr }));
  });
}

/** Options (or the command itself) that the command line does not have. */
function unknownOptions(line: string): string[] {
  const [words = ''] = line.split(' #');
  const [, name = '', ...rest] = words
    .replace(/"[^"]*"/g, '_')
    .split(/\s+/)
    .filter(Boolean);
  const command = program().commands.find((c: Command) => c.name() === name);
  if (!command) return [name];
  const { tokens } = parseArgs({ args: rest, strict: false, allowPositionals: true, tokens: true });
  return tokens
    .filter((t) => t.kind === 'option')
    .filter((t) => !command.options.some((o) => o.long === t.rawName || o.short === t.rawName))
    .map((t) => `${name} ${t.rawName}`);
}

/** Errors of programs as this project's compiler sees them, without the rules about what is unused. */
function typeErrors(blocks: readonly Block[]): string[] {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const compilerOptions: ts.CompilerOptions = {
    ...options,
    noUnusedLocals: false,
    noUnusedParameters: false,
    paths: {
      tramontane: [join(root, 'src/index.ts')],
      'tramontane/core': [join(root, 'src/entry-core.ts')],
      'tramontane/quant': [join(root, 'src/entry-quant.ts')],
    },
  };
  const virtual = new Map(
    blocks.map((block, i) => [join(root, `document-${i}.ts`), `${complete(block)}\nexport {};\n`]),
  );
  const host = ts.createCompilerHost(compilerOptions);
  const { getSourceFile, fileExists } = host;
  host.fileExists = (name) => virtual.has(name) || fileExists(name);
  host.getSourceFile = (name, languageVersion, ...rest) => {
    const code = virtual.get(name);
    if (code !== undefined) return ts.createSourceFile(name, code, languageVersion);
    return getSourceFile(name, languageVersion, ...rest);
  };
  const checked = ts.createProgram([...virtual.keys()], compilerOptions, host);
  return [...virtual.keys()].flatMap((name, i) => {
    const source = checked.getSourceFile(name);
    const found = [...checked.getSyntacticDiagnostics(source), ...checked.getSemanticDiagnostics(source)];
    return found.map((d) => `${blocks[i]?.where}: ${ts.flattenDiagnosticMessageText(d.messageText, ' ')}`);
  });
}

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? files(path) : [path];
  });
}
