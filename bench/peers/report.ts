/** What one run printed, and where it stood. */
export interface Row {
  readonly peer: string;
  /** A number, or the name of a device that has none. */
  readonly threads: number | string;
  readonly round: number;
  readonly wall_s: number;
  readonly own_cores: number;
  readonly error?: string | undefined;
  readonly decode_tps?: number | undefined;
  readonly prefill_tps?: number | undefined;
  /** Tokens per second of CPU time: what a crowded machine distorts less. */
  readonly decode_cpu_tps?: number | undefined;
  readonly prefill_cpu_tps?: number | undefined;
  readonly load_s?: number | undefined;
  readonly ttft_s?: number | undefined;
  /** What a browser counts for its page. */
  readonly page_mb?: number | undefined;
  readonly rss_mb?: number | undefined;
  readonly batch?: Readonly<Record<string, number | null>> | undefined;
  /** Tokens of prompts and answers per second, by how many requests run at a time. */
  readonly serving?: Readonly<Record<string, number | null>> | undefined;
  readonly serving_cpu?: Readonly<Record<string, number | null>> | undefined;
  readonly serving_step_ms?: Readonly<Record<string, number | null>> | undefined;
  /** How many times sooner the first token comes where the prompt was read before. */
  readonly prefix_speedup?: number | undefined;
  /** Decoding behind contexts of some lengths. */
  readonly context?: Readonly<Record<string, number | null>> | undefined;
  readonly context_cpu?: Readonly<Record<string, number | null>> | undefined;
}

export interface Summary {
  readonly peer: string;
  readonly threads: number | string;
  readonly error: string | undefined;
  readonly figures: Readonly<Record<string, number>>;
  /** Figure over the reference peer's, same thread count. */
  readonly ratios: Readonly<Record<string, number>>;
}

const FIGURES = [
  ...(['decode_tps', 'decode_cpu_tps', 'prefill_tps', 'prefill_cpu_tps'] as const),
  ...(['load_s', 'ttft_s', 'page_mb', 'rss_mb', 'prefix_speedup'] as const),
] as const;
const LISTS = [
  ['context', (n: string) => `decode@${n}_tps`],
  ['context_cpu', (n: string) => `decode@${n}_cpu_tps`],
  ['batch', (n: string) => `batch${n}_tps`],
  ['serving', (n: string) => `requests${n}_tps`],
  ['serving_cpu', (n: string) => `requests${n}_cpu_tps`],
  ['serving_step_ms', (n: string) => `requests${n}_step_ms`],
] as const;

/** Medians per peer and thread count, and their ratios to a reference peer. */
export function summarize(rows: readonly Row[], reference: string): Summary[] {
  const groups = new Map<string, Row[]>();
  for (const r of rows) {
    const key = `${r.threads} ${r.peer}`;
    groups.set(key, [...(groups.get(key) ?? []), r]);
  }
  const medians = [...groups.values()].map((group) => {
    const first = group[0] as Row;
    const figures: Record<string, number> = {};
    const put = (name: string, values: (number | null | undefined)[]) => {
      const m = median(values.filter((v): v is number => typeof v === 'number'));
      if (m !== undefined) figures[name] = m;
    };
    for (const f of FIGURES)
      put(
        f,
        group.map((r) => r[f]),
      );
    for (const [list, name] of LISTS) {
      for (const n of new Set(group.flatMap((r) => Object.keys(r[list] ?? {})))) {
        put(
          name(n),
          group.map((r) => r[list]?.[n]),
        );
      }
    }
    const error = Object.keys(figures).length ? undefined : group.find((r) => r.error)?.error;
    return { peer: first.peer, threads: first.threads, error, figures };
  });
  return medians.map((m) => {
    const base = medians.find((o) => o.peer === reference && o.threads === m.threads)?.figures ?? {};
    const ratios: Record<string, number> = {};
    for (const [name, value] of Object.entries(m.figures)) if (base[name]) ratios[name] = value / base[name];
    return { ...m, ratios };
  });
}

/** A Markdown table: each cell a median, with the ratio to the reference in brackets. */
export function table(summary: readonly Summary[]): string {
  const columns = [...new Set(summary.flatMap((s) => Object.keys(s.figures)))];
  const cell = (s: Summary, c: string) => {
    const v = s.figures[c];
    if (v === undefined) return '–';
    const ratio = s.ratios[c];
    return `${v.toFixed(v < 10 ? 2 : 0)}${ratio === undefined ? '' : ` (${ratio.toFixed(2)} ×)`}`;
  };
  const lines = [`| engine | threads | ${columns.join(' | ')} |`, `|---|---|${columns.map(() => '---|').join('')}`];
  for (const s of summary) {
    lines.push(`| ${s.peer} | ${s.threads} | ${s.error ?? columns.map((c) => cell(s, c)).join(' | ')} |`);
  }
  return lines.join('\n');
}

/** What many requests gain over one, and what the engine's own work (`schedulingMs`, by requests) is of a step. */
export function servingNotes(
  summary: readonly Summary[],
  schedulingMs: Readonly<Record<string, number>>,
): readonly string[] {
  return summary.flatMap(({ peer, threads, figures }) => {
    const who = `${peer}, ${threads} threads`;
    const one = figures['requests1_tps'];
    const gains = Object.keys(figures).flatMap((name) => {
      const n = /^requests(\d+)_tps$/.exec(name)?.[1];
      return one && n && n !== '1' ? [`${n}: ${((figures[name] as number) / one).toFixed(2)} ×`] : [];
    });
    const shares = Object.entries(schedulingMs).flatMap(([n, ms]) => {
      const step = figures[`requests${n}_step_ms`];
      return step ? [`${n}: ${(1000 * ms).toFixed(1)} µs, ${((100 * ms) / step).toFixed(3)} %`] : [];
    });
    const notes = [];
    if (gains.length > 0) notes.push(`${who}: tokens/s of requests at a time against one: ${gains.join(', ')}`);
    if (shares.length > 0) notes.push(`${who}: the engine's own work in a step: ${shares.join('; ')}`);
    return notes;
  });
}

export function median(values: readonly number[]): number | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  if (!sorted.length) return undefined;
  return sorted.length % 2 ? sorted[half] : ((sorted[half - 1] as number) + (sorted[half] as number)) / 2;
}
