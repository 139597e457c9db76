// The package as a module of CommonJS.
const library = require('tramontane');
const core = require('tramontane/core');

import('./smoke.mjs').then(async ({ reported, smokeOrReason }) => {
  const result = await reported(() => smokeOrReason(library, core, JSON.parse(process.argv[2])));
  console.log(`RESULT ${JSON.stringify(result)}`);
});
