import fs from 'node:fs';

/** Ticks per second of the CPU times in /proc. */
const TICKS = 100;

/** Peak proportional memory and CPU time of a process and everything below it, sampled from /proc (zero elsewhere). */
export function peakMemory(root: number): { stop(): { peakMb: number; cpuSeconds: number } } {
  let peakMb = 0;
  let cpuSeconds = 0;
  const sample = () => {
    const family = descendants(root);
    cpuSeconds = Math.max(cpuSeconds, family.reduce((n, p) => n + p.ticks, 0) / TICKS);
    peakMb = Math.max(
      peakMb,
      family.reduce((n, p) => n + pssMb(p.pid), 0),
    );
  };
  const timer = setInterval(sample, 250);
  return {
    stop() {
      clearInterval(timer);
      return { peakMb, cpuSeconds };
    },
  };
}

function descendants(root: number): { pid: number; ticks: number }[] {
  const children = new Map<number, { pid: number; ticks: number }[]>();
  const found: { pid: number; ticks: number }[] = [];
  if (!fs.existsSync('/proc/self/stat')) return found;
  for (const entry of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = fs.readFileSync(`/proc/${entry}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const process = { pid: Number(entry), ticks: Number(fields[11]) + Number(fields[12]) };
      if (process.pid === root) found.push(process);
      const parent = Number(fields[1]);
      children.set(parent, [...(children.get(parent) ?? []), process]);
    } catch {
      // The process ended between listing and reading.
    }
  }
  for (let i = 0; i < found.length; i++) found.push(...(children.get(found[i]?.pid ?? -1) ?? []));
  return found;
}

function pssMb(pid: number): number {
  try {
    return Number(/^Pss:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}
