import { describe, expect, it } from 'vitest';
import { figures } from '../../src/cli/answer.ts';
import { dim, ProgressBar, progressLine, table } from '../../src/cli/terminal.ts';

const usage = {
  completionTokens: 42,
  promptTokens: 31,
  totalTokens: 73,
  avgTokPerSec: 1,
  avgPromptTokPerSec: 2,
  avgComplTokPerSec: 88.14,
  totalTimeSec: 1,
  totalPromptTimeSec: 1,
  totalCompletionTimeSec: 1,
};

describe('progress', () => {
  it('is a bar with share and amount, no wider than the terminal', () => {
    const p = { stage: 'load', done: 49.2e6, total: 98.4e6, unit: 'bytes', item: 'model.gguf' } as const;
    expect(progressLine(p, 80)).toBe('load [############............]  50%  49.2 / 98.4 MB  model.gguf');
    expect(progressLine(p, 20)).toHaveLength(19);
    expect(progressLine({ ...p, done: 5, total: 0 }, 80)).toContain('  0%');
    expect(progressLine({ ...p, done: 2e9, total: 1e9 }, 80)).toContain('100%');
  });

  it('is drawn on a terminal only, and only when loading takes a while', () => {
    let time = 0;
    const drawn: string[] = [];
    const screen = { isTTY: true, columns: 80, write: (t: string) => drawn.push(t) };
    const bar = new ProgressBar(screen, () => time);
    const at = (ms: number, done: number) => {
      time = ms;
      bar.update({ stage: 'load', done, total: 100, unit: 'steps' });
    };
    at(10, 50);
    bar.clear();
    expect(drawn).toEqual([]);
    at(300, 60);
    at(310, 70);
    at(320, 100);
    expect(drawn).toHaveLength(2);
    bar.clear();
    expect(drawn.at(-1)).toBe('\r\x1b[2K');
    const silent = new ProgressBar({ write: () => expect.unreachable() }, () => time);
    time += 1000;
    silent.update({ stage: 'load', done: 1, total: 2, unit: 'steps' });
    silent.clear();
  });
});

describe('figures', () => {
  it('tell tokens, speed and the first token', () => {
    expect(figures(usage, 213, 'stop')).toBe('42 tokens, 88.1 tokens/s; prompt 31 tokens, first token after 0.21 s');
    expect(figures(usage, 213, 'length')).toContain('42 tokens (length)');
  });
});

describe('tables and colours', () => {
  it('align columns', () => {
    expect(
      table([
        ['a', 'bb', 'c'],
        ['aaa', 'b', ''],
      ]),
    ).toBe('a    bb  c\naaa  b');
  });

  it('are plain where nobody sees them', () => {
    const screen = { isTTY: true, write: () => undefined };
    expect(dim('x', screen, false)).toBe('\x1b[2mx\x1b[0m');
    expect(dim('x', screen, true)).toBe('x');
    expect(dim('x', { write: () => undefined }, false)).toBe('x');
  });
});
