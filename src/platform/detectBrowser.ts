/** Stands for `detect.ts` in the build for browsers, so that bundlers never meet a module of Node. */
import type { Platform } from '../core/platform.ts';
import type { DetectOptions } from './web.ts';
import { browserPlatform } from './web.ts';

/** The platform of browsers. */
export async function detectPlatform(options: DetectOptions = {}): Promise<Platform> {
  return browserPlatform(options);
}
