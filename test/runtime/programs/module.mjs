// The package as an ES module, found by its name.
import * as library from 'tramontane';
import * as core from 'tramontane/core';
import { run } from './smoke.mjs';

const [task] = globalThis.Deno?.args ?? process.argv.slice(2);
console.log(`RESULT ${JSON.stringify(await run(library, core, JSON.parse(task)))}`);
