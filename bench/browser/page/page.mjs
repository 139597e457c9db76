// One run of one engine: every engine is asked the same, and timed by the same clock.

/** `engine` names the module with `open`: from nothing to a model that answers. */
globalThis.runBench = async (task) => {
  const { open } = await import(`./${task.engine}.mjs`);
  const begun = performance.now();
  const model = await open(task);
  const load_s = (performance.now() - begun) / 1000;
  const answers = [];
  for (let k = 0; k < task.reps; k++) answers.push(await timed(model, task.short, task.decode));
  const prefills = [];
  for (let k = 0; k < task.reps; k++) prefills.push(await timed(model, task.long[k % task.long.length], 1));
  const result = {
    load_s,
    ttft_s: (answers[0].first - begun) / 1000,
    decode_tps: median(answers.map((a) => (a.tokens - a.firstTokens) / ((a.last - a.first) / 1000))),
    prefill_tps: median(prefills.map((p) => p.promptTokens / ((p.first - p.start) / 1000))),
    prompt_tokens: prefills[0].promptTokens,
    page_mb: await memoryMb(),
    text: answers[0].text,
    about: model.about,
  };
  await model.close();
  return result;
};

/** The adapter that WebGPU gives, a real one if there is one. */
globalThis.probeAdapter = async () => {
  const ask = (options) => navigator.gpu.requestAdapter(options).catch(() => null);
  const adapter =
    navigator.gpu &&
    ((await ask({ powerPreference: 'high-performance' })) ?? (await ask({ forceFallbackAdapter: true })));
  if (!adapter) return undefined;
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  const name = description || [vendor, architecture, device].filter(Boolean).join(' ') || 'unnamed adapter';
  const software = /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(`${vendor} ${architecture} ${name}`);
  return { name, software: isFallbackAdapter === true || software };
};

/** A greedy continuation of `count` tokens. A model reports the tokens of each piece as it arrives. */
async function timed(model, prompt, count) {
  const seen = { start: performance.now(), first: 0, last: 0, firstTokens: 0 };
  const result = await model.generate(prompt, count, (tokens) => {
    seen.last = performance.now();
    if (seen.first === 0) [seen.first, seen.firstTokens] = [seen.last, tokens];
  });
  return { ...seen, ...result };
}

/** Of the page and its workers, as far as the browser counts it. */
async function memoryMb() {
  if (performance.measureUserAgentSpecificMemory === undefined) return undefined;
  return (await performance.measureUserAgentSpecificMemory()).bytes / 2 ** 20;
}

function median(list) {
  const sorted = list.filter(Number.isFinite).sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}
