import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import { answer } from '../../src/cli/answer.ts';
import { type ChatIo, chat } from '../../src/cli/chat.ts';
import { samplingOf } from '../../src/cli/flags.ts';
import { History } from '../../src/cli/history.ts';
import { fakeModel, type Script, says } from '../sdk/fakes.ts';

const folders: string[] = [];
afterEach(() => {
  for (const f of folders.splice(0)) rmSync(f, { recursive: true });
});

function session(script: Script, options: { terminal?: boolean; history?: History; flags?: object } = {}) {
  const { model, runner } = fakeModel(script);
  const input = new PassThrough();
  const out = new PassThrough();
  const notes = new PassThrough();
  const text = { out: '', notes: '' };
  out.on('data', (d) => (text.out += d));
  notes.on('data', (d) => (text.notes += d));
  const io: ChatIo = { input, out, notes, terminal: options.terminal ?? false, history: options.history };
  const flags = { temperature: 0, ...options.flags };
  return { model, runner, input, text, done: chat(model, flags, io) };
}

const until = async (ready: () => boolean) => {
  for (let i = 0; i < 2000 && !ready(); i++) await new Promise((resolve) => setTimeout(resolve, 1));
  expect(ready()).toBe(true);
};

describe('chat', () => {
  it('answers line by line, remembers, and leaves at the end of the input', async () => {
    const prompts: string[] = [];
    const script = says('Hi!');
    const s = session((h) => {
      const text = String.fromCharCode(...h.filter((id) => id < 256));
      if (text.endsWith('assistant:')) prompts.push(text);
      return script(h);
    });
    s.input.write('one\n');
    await until(() => s.text.out === 'Hi!\n');
    s.input.end('two\n');
    expect(await s.done).toBe(0);
    expect(s.text.out).toBe('Hi!\nHi!\n');
    expect(prompts).toEqual(['user:one\nassistant:', 'user:one\nassistant:Hi!\nuser:two\nassistant:']);
    expect(s.text.notes).toMatch(/4 tokens, .* tokens\/s/);
  });

  it('joins continued lines, and blocks', async () => {
    let prompt = '';
    const script = says('ok');
    const s = session((h) => {
      prompt = String.fromCharCode(...h.filter((id) => id < 256));
      return script(h);
    });
    s.input.write('a\\\nb\\\nc\n');
    await until(() => s.text.out === 'ok\n');
    expect(prompt).toContain('user:a\nb\nc\n');
    s.input.end('"""\n/not a command\n\nx\n"""\n');
    await s.done;
    expect(prompt).toContain('user:/not a command\n\nx\n');
  });

  it('obeys commands, and says what it does not know', async () => {
    let prompt = '';
    const script = says('ok');
    const s = session((h) => {
      prompt = String.fromCharCode(...h.filter((id) => id < 256));
      return script(h);
    });
    s.input.write('one\n');
    await until(() => s.text.out === 'ok\n');
    s.input.write(
      '/clear\n/system be brief\n/temperature 0.5\n/temperature hot\n/topk 3\n/topp 0.9\n/dance\n/help\ntwo\n',
    );
    await until(() => s.text.out === 'ok\nok\n');
    expect(prompt).toContain('system:be brief\nuser:two\nassistant:');
    expect(prompt).not.toContain('one');
    expect(s.text.notes).toContain('/dance: no such command');
    expect(s.text.notes).toContain('/temperature: expected a number');
    expect(s.text.notes).toContain('{"temperature":0.5,"topK":3,"topP":0.9}');
    expect(s.text.notes).toContain('/exit');
    s.input.write('/exit\n');
    expect(await s.done).toBe(0);
  });

  it('Ctrl-C stops the answer, and twice at the prompt leaves', async () => {
    const s = session(() => 97, { terminal: true });
    s.input.write('go\r');
    await until(() => s.text.out.length > 3);
    s.input.write('\x03');
    await until(() => s.text.out.endsWith('\n'));
    expect(s.text.notes).toContain('(canceled)');
    s.input.write('\x03');
    await until(() => s.text.notes.includes('Ctrl-C again leaves'));
    s.input.write('\x03');
    expect(await s.done).toBe(0);
    expect(s.model.engineStats().running).toBe(0);
  });

  it('takes lines that were pasted together as one message', async () => {
    let prompt = '';
    const script = says('ok');
    const s = session(
      (h) => {
        prompt = String.fromCharCode(...h.filter((id) => id < 256));
        return script(h);
      },
      { terminal: true },
    );
    s.input.write('a\rb\rc\r');
    await until(() => s.text.out === 'ok\n');
    expect(prompt).toContain('user:a\nb\nc\n');
    s.input.write('\x04');
    await s.done;
  });

  it('forgets the oldest turn when the context is full', async () => {
    const s = session(says('y'.repeat(100)));
    for (let i = 1; i <= 6; i++) {
      s.input.write(`${'x'.repeat(60)}\n`);
      await until(() => s.text.out.split('\n').length === i + 1);
    }
    expect(s.text.notes).toContain('oldest question');
    s.input.end();
    await s.done;
  });

  it('reports a failed step and goes on', async () => {
    const s = session(says('fine'));
    s.runner.failAt = 1;
    s.input.write('a\n');
    await until(() => s.text.notes.includes('ModelError'));
    s.runner.failAt = undefined;
    s.input.end('b\n');
    expect(await s.done).toBe(0);
    expect(s.text.out).toContain('fine\n');
  });

  it('keeps typed lines for the next chat', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'history-'));
    folders.push(folder);
    const file = join(folder, 'state', 'history');
    const s = session(says('ok'), { terminal: true, history: new History(file) });
    s.input.write('first\r');
    await until(() => s.text.out === 'ok\n');
    s.input.write('second\r');
    await until(() => s.text.out === 'ok\nok\n');
    s.input.write('\x04');
    await s.done;
    expect(readFileSync(file, 'utf8')).toBe('first\nsecond');
    expect(new History(file).lines).toEqual(['second', 'first']);
    expect(new History(join(folder, 'none')).lines).toEqual([]);
  });
});

describe('answers', () => {
  it('are all that stdout gets', async () => {
    const { model } = fakeModel(says('text'));
    let out = '';
    const result = await answer(
      model.streamChatRequest({ messages: [{ role: 'user', content: 'q' }] }),
      { write: (t) => (out += t) },
      undefined,
    );
    expect(out).toBe('text\n');
    expect(result).toEqual({ text: 'text', finishReason: 'stop' });
    out = '';
    await answer(model.streamComplete('assistant:'), { write: (t) => (out += t) }, undefined);
    expect(out).toBe('text\n');
  });
});

describe('sampling flags', () => {
  it('are undefined when none is given', () => {
    expect(samplingOf({ maxTokens: 5, seed: 1 })).toBeUndefined();
    expect(samplingOf({ temperature: 0, minP: 0.1 })).toEqual({ temperature: 0, minP: 0.1 });
  });
});
