/** `tramontane run`: one answer, or a chat. */
import { RequestValidationError } from '../core/errors.ts';
import type { CompletionParams } from '../core/sdk/request.ts';
import { EMBEDDED_MODEL, loadModel } from '../index.ts';
import { answer } from './answer.ts';
import { INTERRUPTED } from './exit.ts';
import type { RunFlags } from './flags.ts';
import { adapterOf, loadOptions, samplingOf } from './flags.ts';
import { ProgressBar } from './terminal.ts';

/** Answers once or chats; the result is the exit status. */
export async function run(prompt: string, flags: RunFlags): Promise<number> {
  const { stdin, stdout, stderr } = process;
  const interactive = prompt === '' && stdin.isTTY === true;
  const bar = new ProgressBar(flags.quiet ? { write: () => undefined } : stderr);
  const loading = loadModel(flags.model ?? EMBEDDED_MODEL.name, {
    ...loadOptions(flags),
    chatTemplate: flags.chatTemplate,
    tokenizerJson: flags.tokenizer,
    maxModelLen: flags.context,
    hfRevision: flags.revision,
    tokenSource: flags.tokenSource,
    offline: flags.offline,
    onProgress: bar.update,
  });
  // The text is read while the model loads; a failed load is reported below.
  loading.catch(() => undefined);
  const text = prompt !== '' || interactive ? prompt : (await readAll(stdin)).trim();
  const model = await loading.finally(() => bar.clear());
  try {
    if (interactive) {
      const { chat } = await import('./chat.ts');
      return await chat(model, flags);
    }
    if (text === '') {
      throw new RequestValidationError('empty_prompt', 'run: expected a prompt as arguments or on stdin, got none');
    }
    const { thinking, reasoningEffort, seed } = flags;
    const limits = flags.maxTokens === undefined ? {} : { maxLen: flags.maxTokens };
    const adapter = adapterOf(flags);
    const common = {
      ...(adapter === undefined ? {} : { adapter }),
      sampling: { ...(samplingOf(flags) ?? { topK: 1 }), ...limits },
      ...(seed === undefined ? {} : { seed }),
    };
    const messages = [
      ...(flags.system === undefined ? [] : [{ role: 'system', content: flags.system }]),
      { role: 'user', content: text },
    ];
    const stream = flags.raw
      ? model.streamComplete(text, common satisfies CompletionParams)
      : model.streamChatRequest({
          messages,
          ...common,
          ...(thinking === undefined ? {} : { enableThinking: thinking }),
          // Checked with the request, which names the words allowed.
          ...(reasoningEffort === undefined ? {} : { reasoningEffort: reasoningEffort as never }),
        });
    const stop = onInterrupt(() => stream.cancel());
    try {
      const result = await answer(stream, stdout, flags.quiet ? undefined : stderr);
      return result.finishReason === 'canceled' ? INTERRUPTED : 0;
    } finally {
      stop();
    }
  } finally {
    await model.dispose();
  }
}

/** The first Ctrl-C runs `first`, the next one leaves. */
function onInterrupt(first: () => void): () => void {
  let seen = 0;
  const handler = () => {
    if (seen++ === 0) first();
    else process.exit(INTERRUPTED);
  };
  process.on('SIGINT', handler);
  return () => process.off('SIGINT', handler);
}

async function readAll(input: NodeJS.ReadStream): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of input) chunks.push(typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk);
  return new TextDecoder().decode(await new Blob(chunks as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}
