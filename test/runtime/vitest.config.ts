import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/runtime/*.test.ts'],
    globalSetup: ['test/runtime/setup.ts'],
    // One runtime at a time: each uses all cores.
    fileParallelism: false,
    testTimeout: 600_000,
    hookTimeout: 120_000,
    pool: 'forks',
  },
});
