// The package as an ES module, found by its name.
import * as library from 'tramontane';
import * as core from 'tramontane/core';
import { reported, smokeOrReason } from './smoke.mjs';

const argv = globalThis.Deno?.args ?? process.argv.slice(2);
console.log(`RESULT ${JSON.stringify(await reported(() => smokeOrReason(library, core, JSON.parse(argv[0]))))}`);
