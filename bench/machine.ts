/** Where a measurement was taken, and of what. */
import { execFileSync, spawnSync } from 'node:child_process';
import { arch, availableParallelism, cpus, loadavg, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly system: string;
  /** Processes that wanted to run during the minute before the measurement. */
  readonly load: number;
  readonly date: string;
  /** Commit of the benchmarks. */
  readonly commit: string;
}

/** What is compared: a build under a runtime. */
export interface Build {
  readonly name: string;
  readonly dist: string;
  readonly node: string;
  readonly runtime: string;
  readonly version: string;
  readonly commit: string;
}

export function machine(root: string): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryGb: Math.round(totalmem() / 2 ** 30),
    system: `${platform()} ${release()} ${arch()}`,
    load: loadavg()[0] ?? 0,
    date: new Date().toISOString(),
    commit: git(root, 'rev-parse', '--short', 'HEAD') + (git(root, 'status', '--porcelain') === '' ? '' : '-dirty'),
  };
}

function git(root: string, ...args: string[]): string {
  try {
    return execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return 'unknown';
  }
}

/** Asks a build what it is. */
export function describe(name: string, dist: string, node: string): Build {
  const doctor = spawnSync(node, [join(dist, 'cli.js'), 'doctor', '--json', '--offline'], { encoding: 'utf8' });
  const line = doctor.stdout.trim().split('\n').at(-1);
  if (!line) throw new Error(`${dist}: expected a build that \`doctor\` describes, got ${doctor.stderr.trim()}`);
  const { version, commit } = JSON.parse(line) as { readonly version: string; readonly commit: string };
  const runtime = `Node ${spawnSync(node, ['-v'], { encoding: 'utf8' }).stdout.trim()}`;
  return { name, dist, node, runtime, version, commit };
}
