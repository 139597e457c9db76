// The package in a worker of a page.
import * as library from 'tramontane';
import * as core from 'tramontane/core';
import { run } from './smoke.mjs';

globalThis.onmessage = async ({ data }) => {
  const blob = await (await fetch(data.url)).blob();
  globalThis.postMessage(await run(library, core, { ...data, file: new File([blob], 'model.gguf') }));
};
