// This package, as a bundler for browsers finds it.
export async function open({ model: url, threads, adapter, context }) {
  const { loadModel } = await import('/tramontane/index.js');
  const device = threads === undefined ? { device: 'webgpu', adapter } : { device: 'cpu', threads };
  const model = await loadModel(new URL(url, location.href), {
    ...device,
    maxNumSeqs: 1,
    prefixCacheN: 0,
    pagedAttn: { memory: { contextSize: context } },
  });
  const { backend } = model.config();
  return {
    about: `${backend.name}, ${backend.threads} threads, ${backend.simd}: ${backend.reason}`,
    async generate(prompt, count, arrived) {
      const sampling = { topK: 1, ignoreEos: true, maxLen: count };
      let [text, tokens] = ['', 0];
      for await (const { choices } of model.streamComplete(prompt, { sampling })) {
        text += choices[0]?.text ?? '';
        const got = choices[0]?.tokenIds.length ?? 0;
        tokens += got;
        if (got > 0) arrived(got);
      }
      return { text, tokens, promptTokens: (await model.tokenize(prompt)).length };
    },
    close: () => model.dispose(),
  };
}
