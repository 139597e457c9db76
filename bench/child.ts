/** A benchmark in a process of its own: the parent asks, the child answers, one question at a time. */
import { type ChildProcess, fork } from 'node:child_process';

/** What a child is asked: one of its functions, by name. */
export interface Question {
  readonly ask: string;
  readonly with: Readonly<Record<string, unknown>>;
}

type Answer = { readonly value: unknown } | { readonly error: string };

/** The parent's side. */
export class Child {
  readonly #process: ChildProcess;
  readonly #patienceMs: number;

  constructor(script: string, options: { readonly node: string; readonly patienceMs: number }) {
    this.#process = fork(script, [], {
      execPath: options.node,
      execArgv: [],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#patienceMs = options.patienceMs;
  }

  /** The answer; rejects when the child fails, dies or takes too long. */
  ask<T>(question: Question): Promise<T> {
    const child = this.#process;
    return new Promise<T>((resolve, reject) => {
      const settle = (act: () => void) => {
        clearTimeout(timer);
        child.off('message', onMessage);
        child.off('exit', onExit);
        act();
      };
      const onMessage = (answer: Answer) =>
        settle(() => ('error' in answer ? reject(new Error(answer.error)) : resolve(answer.value as T)));
      const onExit = (code: number | null) => settle(() => reject(new Error(`the child ended with status ${code}`)));
      const timer = setTimeout(
        () => settle(() => reject(new Error(`${question.ask}: no answer within ${this.#patienceMs} ms`))),
        this.#patienceMs,
      );
      child.on('message', onMessage);
      child.on('exit', onExit);
      child.send(question);
    });
  }

  stop(): void {
    this.#process.kill();
  }
}

/** The child's side: answers questions until the parent goes. */
export function serve(functions: Readonly<Record<string, (input: never) => unknown>>): void {
  const reply = (answer: Answer) => process.send?.(answer);
  process.on('message', async (question: Question) => {
    try {
      const answer = functions[question.ask];
      if (!answer) throw new Error(`${question.ask}: expected one of ${Object.keys(functions).join(', ')}`);
      reply({ value: await answer(question.with as never) });
    } catch (error) {
      reply({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  });
  process.on('disconnect', () => process.exit());
}
