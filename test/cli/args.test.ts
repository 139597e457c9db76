import { describe, expect, it } from 'vitest';
import { adapterSpec, names, real, typeList, whole, wholeList } from '../../src/cli/args.ts';
import { exitCodeOf, failureText } from '../../src/cli/exit.ts';
import { adapterOf, loadOptions } from '../../src/cli/flags.ts';
import { program } from '../../src/cli/main.ts';
import { AbortError, ModelLoadError } from '../../src/core/errors.ts';

/** What the command line says about `argv`, and the status it exits with. */
async function parse(...argv: string[]): Promise<{ text: string; status: number }> {
  let text = '';
  const root = program();
  for (const c of [root, ...root.commands]) {
    c.configureOutput({ writeErr: (t) => (text += t), writeOut: (t) => (text += t) }).exitOverride();
    if (c !== root) c.action(() => undefined);
  }
  try {
    await root.parseAsync(argv, { from: 'user' });
    return { text, status: 0 };
  } catch (error) {
    return { text, status: exitCodeOf(error) };
  }
}

describe('option values', () => {
  it('are numbers in range', () => {
    expect(whole(1, 8)(' 8 ')).toBe(8);
    expect(real(0, 1)('0.25')).toBe(0.25);
    expect(real(0)('1e3')).toBe(1000);
    expect(wholeList(1, 9)('4,8')).toEqual([4, 8]);
    expect(wholeList(1, 9)('')).toEqual([]);
    expect(names('a.gguf; b.gguf')).toEqual(['a.gguf', 'b.gguf']);
    expect(typeList('Q8_0, 4', typeList('Q4K', []))).toEqual(['Q4K', 'Q8_0', '4']);
  });

  it.each(['', 'x', '1.5', '0', '9', '1e1', '99999999999999999999', '-1'])('whole(1, 8) refuses %j', (text) => {
    expect(() => whole(1, 8)(text)).toThrow(/expected a whole number from 1 to 8/);
  });

  it.each(['', 'x', 'NaN', 'Infinity', '1.1', '-0.1'])('real(0, 1) refuses %j', (text) => {
    expect(() => real(0, 1)(text)).toThrow(/expected a number from 0 to 1/);
  });
});

describe('flags of quantization and adapters', () => {
  it('are the options of the SDK', () => {
    expect(loadOptions({})).toMatchObject({ isq: undefined, loraAdapters: undefined, xlora: undefined });
    const flags = { isq: 'Q4K', imatrix: 'i', topology: 't', expertsOnly: true, cacheType: 'q8_0' };
    expect(loadOptions(flags)).toMatchObject({
      ...{ isq: 'Q4K', imatrix: 'i', topologyFromPath: 't', mixtureQexpertsIsq: true },
      pagedAttn: { cacheType: 'q8_0' },
    });
    expect(loadOptions({ xlora: 'x', xloraOrder: 'o', tgtNonGranularIndex: 2 }).xlora).toEqual({
      ...{ modelId: 'x', ordering: 'o', tgtNonGranularIndex: 2 },
    });
    expect(loadOptions({ legacyLora: 'l' }).legacyLora).toEqual({ modelId: 'l' });
  });

  it('name adapters, the first of which answers unless another is asked for', () => {
    const lora = adapterSpec('b=x=y', adapterSpec('a=dir'));
    expect(lora).toEqual([
      { alias: 'a', source: 'dir' },
      { alias: 'b', source: 'x=y' },
    ]);
    expect(loadOptions({ lora }).loraAdapters).toEqual(lora);
    expect([adapterOf({}), adapterOf({ lora }), adapterOf({ lora, loraAdapter: 'b' })]).toEqual([undefined, 'a', 'b']);
    for (const text of ['a', '=dir', 'a=']) expect(() => adapterSpec(text)).toThrow(/ALIAS=SOURCE/);
  });
});

describe('flags that ask for guesses', () => {
  it('are the options of the SDK', () => {
    expect(loadOptions({})).toMatchObject({ mtp: undefined, draftModel: undefined, speculation: undefined });
    expect(loadOptions({ mtp: true }).mtp).toEqual({ model: undefined, nPredict: undefined });
    expect(loadOptions({ mtpModel: 'm', mtpNPredict: 3 }).mtp).toEqual({ model: 'm', nPredict: 3 });
    expect(loadOptions({ lookup: true }).speculation).toMatchObject({ lookup: true });
  });
});

describe('the command line', () => {
  it.each([
    [['run', '--threads', 'many', 'hi'], '--threads'],
    [['run', '--top-p', '2', 'hi'], '--top-p'],
    [['run', '--nonsense'], '--nonsense'],
    [['run', '--mtp-n-predict', '65', 'hi'], '--mtp-n-predict'],
    [['bench', '--gen', '1'], '--gen'],
    [['bench', '--batch', '4,x'], '--batch'],
    [['bench', '--perplexity', 'f', '--stride', '0'], '--stride'],
    [['bench', '--serving', '0'], '--serving'],
    [['run', '-f', ';', 'hi'], '--file'],
    [['run', '--from-uqff', '', 'hi'], '--from-uqff'],
    [['run', '--lora', 'alias', 'hi'], '--lora'],
    [['quantize', '--isq', ','], '--isq'],
    [['fly'], 'fly'],
  ])('%j: exit status 2, and the option is named', async (argv, name) => {
    const { text, status } = await parse(...argv);
    expect(status).toBe(2);
    expect(text).toContain(name);
  });

  it('help and version succeed', async () => {
    expect(await parse('--version')).toEqual({ text: expect.stringMatching(/\S/), status: 0 });
    const { text, status } = await parse('run', '--help');
    expect(status).toBe(0);
    expect(text).toContain('--temperature');
  });

  it('lists exactly the commands that exist', () => {
    expect(program().commands.map((c) => c.name())).toEqual(['run', 'bench', 'quantize', 'doctor', 'models']);
  });

  it('quantizes by an importance file or a text', async () => {
    const { text } = await parse('quantize', '--help');
    for (const flag of ['--imatrix', '--calibration-file', '--topology']) expect(text).toContain(flag);
  });

  it('accepts what the comparison with other engines passes', async () => {
    const argv =
      'bench --model a --prompts p --threads 2 --reps 2 --decode 128 --batch 4,8 --batch-decode 32 --task gen';
    expect(await parse(...argv.split(' '))).toEqual({ text: '', status: 0 });
    expect((await parse('bench', '--prompts', 'p', '--batch', '')).status).toBe(0);
    const serving = ['--serving', '1,8', '--serving-prompts', '24,180'];
    expect(await parse('bench', '--prompts', 'p', ...serving)).toEqual({ text: '', status: 0 });
  });
});

describe('failures', () => {
  it('tell the kind, the message and the reasons', () => {
    const error = new ModelLoadError('m.gguf: no such file', { cause: new Error('ENOENT') });
    expect(failureText(error)).toBe('tramontane: ModelLoadError: m.gguf: no such file\n  because: ENOENT');
    expect(failureText('text')).toBe('tramontane: text');
  });

  it('have an exit status', () => {
    expect(exitCodeOf(new ModelLoadError('x'))).toBe(1);
    expect(exitCodeOf(new AbortError('x'))).toBe(130);
  });
});
