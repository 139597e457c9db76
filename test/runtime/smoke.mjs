/**
 * What every runtime must be able to do with the package, in plain JavaScript: nothing here names a runtime. The same
 * module runs in Node, Deno, Bun and browsers, unbundled and bundled.
 */

/**
 * Loads the model of `task`, asks it, and compares.
 *
 * @param library the exports of `tramontane`
 * @param task `device`; `adapter` for it; `file`: a path or a `File`; `url`; `chat` and `raw`: `{ text, ids?, out }`,
 *   a question with its greedy answer, a prompt with its ids and its continuation; `tokens`: length of answers; `threads`
 *   of the CPU that must be at work, if not two wherever memory can be shared
 * @returns the names of the checks that passed and the back-end's description
 */
export async function smoke(library, task) {
  const { loadModel, AbortError, ChannelError } = library;
  const { device, adapter, chat, raw, tokens } = task;
  const options = { device, ...(adapter === undefined ? {} : { adapter }) };
  const sampling = { topK: 1, maxLen: tokens, ignoreEos: true };
  const question = { messages: [{ role: 'user', content: chat.text }], sampling };
  const passed = [];
  const check = async (name, run) => {
    try {
      await run();
    } catch (error) {
      throw new Error(`${name}: ${error?.stack ?? error}`, { cause: error });
    }
    passed.push(name);
  };

  let model;
  const stages = new Set();
  await check('load a file', async () => {
    const threads = device === 'cpu' ? { threads: 2 } : {};
    model = await loadModel(task.file, { ...options, ...threads, onProgress: ({ stage }) => stages.add(stage) });
    same([...stages].includes('load'), true, 'progress');
  });
  const { backend } = model.config();
  if (device === 'cpu') {
    await check('threads', () => {
      const shared = typeof SharedArrayBuffer === 'function';
      same(backend.threads, task.threads ?? (shared ? 2 : 1), `threads (${backend.reason})`);
      same(backend.simd === 'off', false, `plain loops (${backend.reason})`);
    });
  }
  await check('tokenizer', async () => {
    const ids = await model.tokenize(raw.text);
    same([...ids], raw.ids, 'ids');
    same(await model.detokenize(ids), raw.text, 'text');
  });
  await check('chat', async () => {
    const { choices, usage } = await model.sendChatRequest(question);
    begins(chat.out, choices[0].message.content);
    same(usage.completionTokens, tokens, 'completion tokens');
  });
  await check('stream', async () => {
    let text = '';
    let chunks = 0;
    for await (const { choices } of model.streamChatRequest(question)) {
      text += choices[0]?.delta.content ?? '';
      chunks++;
    }
    begins(chat.out, text);
    same(chunks > 2, true, 'more than two chunks');
  });
  await check('abort', async () => {
    const long = { ...question, sampling: { ...sampling, maxLen: 200 } };
    const stop = new AbortController();
    let reason;
    let seen = 0;
    for await (const { choices } of model.streamChatRequest(long, { signal: stop.signal })) {
      reason = choices[0]?.finishReason ?? reason;
      if (++seen === 2) stop.abort();
    }
    same(reason, 'canceled', 'finish reason');
    const waiting = new AbortController();
    setTimeout(() => waiting.abort(), 20);
    const error = await failureOf(() => model.sendChatRequest(long, { signal: waiting.signal }));
    same(error instanceof AbortError, true, `an AbortError, got ${error}`);
    for await (const _ of model.streamChatRequest(long)) break;
    begins(raw.out, (await model.complete(raw.text, { sampling })).choices[0].text);
  });
  await check('dispose', async () => {
    await model.dispose();
    await model.dispose();
    const error = await failureOf(() => model.chat('Are you there?'));
    same(error instanceof ChannelError, true, `a ChannelError, got ${error}`);
  });
  await check('load a URL', async () => {
    const remote = await loadModel(new URL(task.url), options);
    begins(raw.out, (await remote.complete(raw.ids, { sampling })).choices[0].text);
    await remote.dispose();
  });
  return { passed, backend };
}

/**
 * Loads over a connection that breaks: once, which goes unnoticed, then always, which ends with a typed error.
 *
 * @param task `breaksOnce` and `breaksAlways`: URLs; `raw` and `tokens` as above
 */
export async function badNetwork({ loadModel, ModelLoadError }, { breaksOnce, breaksAlways, raw, tokens }) {
  const model = await loadModel(new URL(breaksOnce), { device: 'cpu', threads: 1 });
  begins(raw.out, (await model.complete(raw.ids, { sampling: { topK: 1, maxLen: tokens } })).choices[0].text);
  const { backend } = model.config();
  await model.dispose();
  const error = await failureOf(() => loadModel(new URL(breaksAlways), { device: 'cpu', threads: 1 }));
  same(error instanceof ModelLoadError, true, `a ModelLoadError, got ${error}`);
  same(/\(5 tries\)$/.test(error.message), true, `a message that counts the tries, got ${error.message}`);
  return { passed: ['resume', 'give up'], backend };
}

/**
 * Answers with token ids alone, where a large model would take too long.
 *
 * @param task `device` and `adapter`, `url` of a model, `ids` of a prompt, `expected` continuation
 */
export async function continuation({ loadModel }, { device, adapter, url, ids, expected }) {
  const model = await loadModel(new URL(url), { device, ...(adapter === undefined ? {} : { adapter }) });
  const sampling = { topK: 1, maxLen: expected.length, ignoreEos: true };
  same([...(await model.complete(ids, { sampling })).choices[0].tokenIds], expected, 'token ids');
  const { backend } = model.config();
  await model.dispose();
  return { passed: ['continuation'], backend };
}

/**
 * Runs the scenario of a task: `smoke`, where the device can be had, or one of the others. Never rejects: `{ skipped }`
 * and `{ failed }` say why there is no result.
 *
 * @param core the exports of `tramontane/core`
 */
export async function run(library, core, task) {
  try {
    if (task.scenario === 'badNetwork') return await badNetwork(library, task);
    const reason = await absence(core, task);
    if (reason !== undefined) return { skipped: reason };
    return await (task.scenario === 'continuation' ? continuation : smoke)(library, task);
  } catch (error) {
    return { failed: String(error?.stack ?? error) };
  }
}

/** Why the device cannot be had here. */
async function absence({ createBackend, UnsupportedError }, { device, adapter }) {
  try {
    const backend = await createBackend(device, { adapter });
    await backend.dispose();
  } catch (error) {
    if (!(error instanceof UnsupportedError) || device === 'cpu') throw error;
    return error.message;
  }
  return undefined;
}

async function failureOf(work) {
  try {
    await work();
  } catch (error) {
    return error;
  }
  return undefined;
}

function same(got, expected, what) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: expected ${b}, got ${a}`);
}

/** Greedy answers of a given length are the beginning of the known one. */
function begins(known, got) {
  if (typeof got === 'string' && got.length > 3 && known.trimStart().startsWith(got.trim())) return;
  throw new Error(`answer: expected the beginning of ${JSON.stringify(known)}, got ${JSON.stringify(got)}`);
}
