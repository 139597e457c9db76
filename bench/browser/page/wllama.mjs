// llama.cpp compiled to WebAssembly, with its own WebGPU back-end.
export async function open({ model: url, threads, context }) {
  const { Wllama, LoggerWithoutDebug } = await import('/wllama/index.js');
  const wllama = new Wllama(
    { default: '/wllama/wasm/wllama.wasm' },
    { logger: LoggerWithoutDebug, suppressNativeLog: true },
  );
  const blob = await (await fetch(url)).blob();
  await wllama.loadModel([blob], {
    n_ctx: context,
    n_batch: 512,
    n_ubatch: 512,
    n_parallel: 1,
    ...(threads === undefined ? { n_gpu_layers: 99_999 } : { n_threads: threads, n_gpu_layers: 0 }),
  });
  return {
    about: `${wllama.isMultithread() ? wllama.getNumThreads() : 1} threads`,
    async generate(prompt, count, arrived) {
      let [text, timings] = ['', undefined];
      await wllama.createCompletion({
        prompt,
        max_tokens: count,
        temperature: 0,
        top_k: 1,
        ignore_eos: true,
        cache_prompt: false,
        stream: true,
        onData(chunk) {
          timings = chunk.timings ?? timings;
          const [choice] = chunk.choices;
          if (!choice?.text && choice?.finish_reason) return;
          text += choice?.text ?? '';
          arrived(1);
        },
      });
      return { text, tokens: timings.predicted_n, promptTokens: timings.prompt_n };
    },
    close: () => wllama.exit(),
  };
}
