/** Stands for `detect.ts` in the build for browsers, so that bundlers never meet a module of Node. */
import type { Platform } from '../core/platform.ts';
import { webPlatform } from './web.ts';

/** The platform of browsers. */
export async function detectPlatform(): Promise<Platform> {
  return webPlatform();
}
