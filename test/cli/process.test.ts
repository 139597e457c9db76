/** The built command line as a process: what goes to stdout, what to stderr, and the exit status. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const tiny = fileURLToPath(new URL('../fixtures/models/gguf_llama_q8_0/model.gguf', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'cli-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Result {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

function start(
  args: readonly string[],
  input?: string,
): { child: ChildProcess; done: Promise<Result>; seen(): string } {
  const child = spawn(process.execPath, [cli, ...args], {
    env: { ...process.env, HF_HUB_OFFLINE: '1', NO_COLOR: '1' },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (d) => (out += d));
  child.stderr.on('data', (d) => (err += d));
  if (input !== undefined) child.stdin.end(input);
  const done = new Promise<Result>((resolve) => child.on('close', (status) => resolve({ status, out, err })));
  return { child, done, seen: () => out };
}
const cliRun = (args: readonly string[], input?: string) => start(args, input).done;
const model = ['-m', tiny, '--device', 'reference'];

describe.skipIf(!existsSync(cli))('tramontane (built by `npm run build`)', () => {
  it('run answers a prompt on stdout and nothing else there', async () => {
    const { status, out, err } = await cliRun(['run', ...model, '--raw', '-n', '12', 'hello']);
    expect(status).toBe(0);
    expect(out.endsWith('\n')).toBe(true);
    expect(out.length).toBeGreaterThan(2);
    expect(err).toMatch(/^\d+ tokens( \(length\))?, .* tokens\/s; prompt \d+ tokens/);
    const again = await cliRun(['run', ...model, '--raw', '-n', '12', '--quiet', 'hello']);
    expect(again).toEqual({ status: 0, out, err: '' });
  });

  it('run reads the prompt from stdin where that is no terminal', async () => {
    const args = ['run', ...model, '--raw', '-n', '12', '-q'];
    const given = await cliRun([...args, 'hello']);
    expect(await cliRun(args, 'hello\n')).toEqual(given);
  });

  it('run asks for a prompt where there is none', async () => {
    expect(await cliRun(['run', ...model], ' ')).toMatchObject({
      status: 1,
      out: '',
      err: expect.stringContaining('prompt'),
    });
  });

  it('run applies a template given as a file, and sampling', async () => {
    const file = join(folder, 't.jinja');
    writeFileSync(file, '{{ messages[0].content }}|{{ messages[1].content }}');
    const args = [
      'run',
      ...model,
      '-c',
      file,
      '--system',
      'be',
      '-n',
      '8',
      '--temperature',
      '2',
      '--seed',
      '3',
      '-q',
      'x',
    ];
    const first = await cliRun(args);
    expect(first.status).toBe(0);
    expect(await cliRun(args)).toEqual(first);
  });

  it.each([
    [['run', '-m', join(folder, 'none.gguf'), 'x'], 1, /ModelLoadError.*none\.gguf/s],
    [['run', ...model, '--dtype', 'f64', '--raw', 'x'], 1, /ConfigError.*dtype/s],
    [['run', ...model, '--device', 'webgpu', '--adapter', 'no such', '--raw', 'x'], 1, /UnsupportedError.*webgpu/s],
    [['run', ...model, '--thinking', '--reasoning-effort', 'off', 'x'], 1, /RequestValidationError.*reasoningEffort/s],
    [['run', '--threads', 'x'], 2, /--threads/],
    [['dance'], 2, /dance/],
  ])('%j fails with status %i', async (args, status, message) => {
    const result = await cliRun(args);
    expect(result).toMatchObject({ status, out: '' });
    expect(result.err).toMatch(message);
  });

  it('Ctrl-C stops the answer with status 130', async () => {
    const { child, done, seen } = start(['run', ...model, '--raw', '--context', '100000', 'hello']);
    for (let i = 0; i < 600 && seen() === ''; i++) await new Promise((resolve) => setTimeout(resolve, 20));
    child.kill('SIGINT');
    const { status, out, err } = await done;
    expect(status).toBe(130);
    expect(out.endsWith('\n')).toBe(true);
    expect(err).toContain('(canceled)');
  });

  it('quantize writes UQFF files that run reads', async () => {
    const source = join(folder, 'source');
    cpSync(fileURLToPath(new URL('../fixtures/models/llama_l3', import.meta.url)), source, { recursive: true });
    const { vocab_size: size } = JSON.parse(readFileSync(join(source, 'config.json'), 'utf8')) as {
      vocab_size: number;
    };
    const vocab = Object.fromEntries(Array.from({ length: size }, (_, i) => [`w${i}`, i]));
    const tokenizer = { model: { type: 'WordLevel', vocab, unk_token: 'w0' }, pre_tokenizer: { type: 'Whitespace' } };
    writeFileSync(join(source, 'tokenizer.json'), JSON.stringify(tokenizer));
    const out = join(folder, 'out');
    const file = await cliRun(['quantize', '-m', source, '--isq', 'Q4K', '-o', join(out, 'small.uqff')]);
    expect(file).toMatchObject({
      status: 0,
      out: '',
      err: expect.stringMatching(/small.uqff: Q4K: \d+ matrices, .* MiB/),
    });
    const run = (from: string, ...more: string[]) =>
      cliRun(['run', '-m', from, '--device', 'reference', '--raw', '-n', '8', '-q', ...more, 'w3 w5 w7']);
    const answer = await run(out);
    expect(answer).toMatchObject({ status: 0, err: '', out: expect.stringMatching(/w\d+ w\d+/) });
    expect(await run(join(out, 'small-0.uqff'))).toEqual(answer);
    const set = join(folder, 'set');
    const types = ['--isq', 'Q4K,AFQ4', '--isq', 'Q8_0', '--uqff-base-model', 'org/base'];
    expect((await cliRun(['quantize', '-m', source, ...types, '-o', set, '-q'])).err).toBe('');
    expect(readFileSync(join(set, 'README.md'), 'utf8')).toContain('org/base');
    expect(await run(set, '--from-uqff', 'q4k')).toEqual(answer);
    expect(await run(set)).toMatchObject({
      status: 1,
      err: expect.stringMatching(/several; name one of: .*afq4-0.uqff/),
    });
    await cliRun(['quantize', '-m', source, '--isq', 'Q4K', '-o', join(folder, 'bare'), '--no-readme']);
    expect(existsSync(join(folder, 'bare', 'README.md'))).toBe(false);
    for (const bad of [
      ['--isq', 'Q4K'],
      ['--isq', 'Q4K,Q8_0', '-o', join(folder, 'a.gguf')],
      ['-o', join(folder, 'a.uqff')],
    ]) {
      const refused = await cliRun(['quantize', '-m', source, ...bad]);
      expect(refused).toMatchObject({ status: 1, out: '', err: expect.stringContaining('ConfigError') });
    }
  });

  it('bench tells the perplexity of a text, and the divergence from a reference', async () => {
    const file = join(folder, 'text.txt');
    writeFileSync(file, 'the wind that blows over the hills, and the hills that stay. '.repeat(3));
    const args = ['bench', ...model, '--perplexity', file, '--chunk', '16', '--stride', '8', '--max-chunks', '3'];
    const shown = await cliRun([...args, '--bos', '2']);
    expect(shown).toMatchObject({ status: 0, err: '' });
    expect(shown.out).toMatch(/^perplexity +\d+\.\d+ ± \d+\.\d+\ntokens foretold +32\nspeed .* tokens\/s\n$/);
    const compared = await cliRun([...args, '--bos', '2', '--isq', 'Q4_0', '--reference', tiny, '--json']);
    expect(compared.status).toBe(0);
    const report = JSON.parse(compared.out);
    const numbers = { mean: expect.any(Number), p99: expect.any(Number), rms_delta_p: expect.any(Number) };
    expect(report).toMatchObject({ count: 32, bos: [2], isq: 'Q4_0', divergence: { count: 32, ...numbers } });
    expect(report.divergence.mean).toBeGreaterThan(0);
    // Kernels are chosen by their speed at every start, and may round otherwise.
    const first = Number(/perplexity +([\d.]+)/.exec(shown.out)?.[1]);
    expect(report.reference.perplexity / first).toBeCloseTo(1, 3);
    expect(report.chunks.map((c: { count: number }) => c.count)).toEqual([16, 8, 8]);
    const plain = await cliRun([...args, '--bos', 'none', '--json']);
    expect(JSON.parse(plain.out)).toMatchObject({ bos: [], count: 31 });
    expect(await cliRun([...args, '--bos', 'x'])).toMatchObject({
      status: 1,
      out: '',
      err: expect.stringMatching(/--bos/),
    });
  });

  it('bench prints the fields of its contract', async () => {
    const { status, out } = await cliRun([
      'bench',
      ...model,
      '--prompt',
      '8',
      '--gen',
      '4',
      '--parallel',
      '2',
      '--reps',
      '1',
      '--json',
    ]);
    expect(status).toBe(0);
    const report = JSON.parse(out) as Record<string, unknown>;
    expect(Object.keys(report).sort()).toEqual(
      [
        'backend',
        'commit',
        'decode_tps',
        'load_s',
        'model',
        'prefill_tps',
        'rss_mb',
        'simd',
        'threads',
        'ttft_s',
      ].sort(),
    );
    expect(report).toMatchObject({ backend: 'reference', threads: 1, simd: 'off', model: tiny });
    for (const key of ['decode_tps', 'load_s', 'prefill_tps', 'rss_mb', 'ttft_s'])
      expect(report[key]).toBeGreaterThan(0);
  });

  it('bench speaks the protocol of comparisons', async () => {
    const prompts = join(folder, 'prompts.json');
    const long = ['a b c d e f', 'b c d e f g'];
    writeFileSync(prompts, JSON.stringify({ short: 'ab', long, batch: ['x', 'y', 'z', 'w'] }));
    const flags = '--threads 1 --reps 2 --decode 6 --batch 2,4 --batch-decode 4 --task gen'.split(' ');
    const { status, out } = await cliRun(['bench', ...model, '--prompts', prompts, ...flags]);
    expect(status).toBe(0);
    const last = out.trim().split('\n').at(-1) ?? '';
    const result = JSON.parse(last) as Record<string, unknown>;
    expect(result).toMatchObject({ prompt_tokens: expect.any(Number), text: expect.any(String) });
    expect(Object.keys(result['batch'] as object)).toEqual(['2', '4']);
    for (const key of ['decode_tps', 'prefill_tps', 'ttft_s', 'rss_mb']) expect(result[key]).toBeGreaterThan(0);
    const requests = '--serving 1,3 --serving-prompts 4,9 --decode 3'.split(' ');
    const served = await cliRun(['bench', ...model, '--prompts', prompts, ...requests]);
    const figures = JSON.parse(served.out.trim().split('\n').at(-1) ?? '');
    for (const key of ['serving', 'serving_cpu', 'serving_step_ms']) {
      expect(figures[key]).toEqual({ 1: expect.any(Number), 3: expect.any(Number) });
      expect(Math.min(...(Object.values(figures[key]) as number[]))).toBeGreaterThan(0);
    }
    expect(figures.prefix_speedup).toBeGreaterThan(0);
    const embed = await cliRun(['bench', ...model, '--prompts', prompts, '--task', 'embed']);
    expect(embed).toMatchObject({ status: 1, err: expect.stringContaining('--task') });
  });

  it('models and doctor print what they know', async () => {
    const models = await cliRun(['models']);
    expect(models.out).toMatch(/LlamaForCausalLM/);
    expect(models.out).toMatch(/Q4_1 +5 +32/);
    const listed = JSON.parse((await cliRun(['models', '--json'])).out) as { architectures: unknown[] };
    expect(listed.architectures.length).toBeGreaterThan(5);
    const doctor = await cliRun(['doctor', '--json', '--offline']);
    const { checks } = JSON.parse(doctor.out) as { checks: { name: string; status: string }[] };
    expect(checks.map((c) => c.name)).toContain('CPU back-end');
    expect(doctor.status).toBe(checks.some((c) => c.status === 'error') ? 1 : 0);
  });
});
