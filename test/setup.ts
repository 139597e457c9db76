import { afterEach } from 'vitest';

/** Long synchronous tests in a row would keep the runner from hearing of any of them: it gets a turn after each. */
afterEach(() => new Promise((done) => setTimeout(done)));
