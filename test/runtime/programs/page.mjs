// The package in a page: found through an import map, or put into a bundle.
import * as library from 'tramontane';
import * as core from 'tramontane/core';
import { run } from './smoke.mjs';

/** `file` is fetched here: what a file picker would give. */
globalThis.runSmoke = async (task) => {
  if (task.scenario !== undefined) return run(library, core, task);
  const blob = await (await fetch(task.url)).blob();
  return run(library, core, { ...task, file: new File([blob], 'model.gguf') });
};
