// The package in a page: found through an import map, or put into a bundle.
import * as library from 'tramontane';
import * as core from 'tramontane/core';
import { reported, smokeOrReason } from './smoke.mjs';

/** `file` is fetched here: what a file picker would give. */
globalThis.runSmoke = (task) =>
  reported(async () => {
    const blob = await (await fetch(task.url)).blob();
    return smokeOrReason(library, core, { ...task, file: new File([blob], 'model.gguf') });
  });
