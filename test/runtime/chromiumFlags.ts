/** Where Chromium is, and how it is started. */
import { existsSync } from 'node:fs';

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Nothing of the browser's own goes to the network; a software adapter may stand in for a GPU. */
export const CHROMIUM_FLAGS: readonly string[] = [
  '--headless',
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  '--enable-unsafe-webgpu',
];

/** `CHROMIUM`, or one of the usual places. */
export function chromiumPath(): string | undefined {
  return [process.env['CHROMIUM'], ...PLACES].find((path) => path && existsSync(path));
}
