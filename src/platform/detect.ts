/** Chooses the platform. File-system code is imported only where it can run, so that browsers never load it. */
import type { Platform } from '../core/platform.ts';
import type { DetectOptions } from './web.ts';
import { browserPlatform } from './web.ts';

/**
 * The platform of the current runtime: Node, Deno and Bun have files, anything else is treated as a browser, whose files
 * are those of the origin's private file system when `opfs` asks for them.
 */
export async function detectPlatform(options: DetectOptions = {}): Promise<Platform> {
  const versions = (globalThis as { process?: { versions?: Record<string, string | undefined> } }).process?.versions;
  const server = versions?.['node'] !== undefined || 'Deno' in globalThis || 'Bun' in globalThis;
  if (!server) return browserPlatform(options);
  const { nodePlatform } = await import('./node.ts');
  return nodePlatform();
}
