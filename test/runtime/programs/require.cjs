// The package as a module of CommonJS.
const library = require('tramontane');
const core = require('tramontane/core');

import('./smoke.mjs').then(async ({ run }) => {
  console.log(`RESULT ${JSON.stringify(await run(library, core, JSON.parse(process.argv[2])))}`);
});
