import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // In runtimes of their own: `npm run test:runtimes`.
    exclude: ['test/runtime/**'],
    setupFiles: ['test/setup.ts'],
    // A software adapter compiles some kernels for half a minute the first time.
    testTimeout: 180_000,
    hookTimeout: 120_000,
    pool: 'forks',
    // Tests of memory collect garbage before they look.
    poolOptions: { forks: { maxForks: 2, execArgv: ['--expose-gc'] } },
  },
});
