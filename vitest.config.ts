import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // In runtimes of their own: `npm run test:runtimes`.
    exclude: ['test/runtime/**'],
    setupFiles: ['test/setup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    // Tests of memory collect garbage before they look.
    poolOptions: { forks: { maxForks: 2, execArgv: ['--expose-gc'] } },
  },
});
