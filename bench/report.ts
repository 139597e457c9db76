/** From measured points to medians, ratios and tables. */

/** One repetition, as it is shown. */
export interface Point {
  readonly benchmark: string;
  readonly unit: string;
  readonly value: number;
  readonly lowerIsBetter?: boolean;
  /** CPU milliseconds of all threads per token, byte or run. */
  readonly cpuMs?: number;
  /** Read from memory in one second. */
  readonly bytesPerSecond?: number;
  readonly gflops?: number;
  /** Over the results. */
  readonly checksum?: number;
}

/** All repetitions of one benchmark with one thread count and build. */
export interface Series {
  readonly benchmark: string;
  readonly threads: number;
  readonly build: string;
  readonly points: Point[];
}

export interface Row {
  readonly benchmark: string;
  readonly threads: number;
  readonly build: string;
  readonly unit: string;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly repetitions: number;
  readonly cpuMs: number | undefined;
  readonly gbPerSecond: number | undefined;
  /** Of the read bandwidth that as many threads reached in the same run. */
  readonly shareOfBandwidth: number | undefined;
  readonly gflops: number | undefined;
}

/** One build against another, from neighbouring repetitions. */
export interface Ratio {
  readonly benchmark: string;
  readonly threads: number;
  /** Above 1: the first build is better. */
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** The same by CPU time. */
  readonly cpu: number | undefined;
  readonly sameResults: boolean;
}

/** What `ops.bench.ts` prints. */
export interface KernelReport {
  readonly runtime: string;
  readonly results: readonly {
    readonly kernel: string;
    readonly shape: string;
    /** Of weights, where they are streamed from memory. */
    readonly gbps?: number;
    readonly gflops: number;
  }[];
}

/** Collects points, in the order in which benchmarks first report. */
export class Results {
  readonly #series = new Map<string, Series>();

  add(threads: number, build: string, point: Point): void {
    const { benchmark } = point;
    const key = JSON.stringify([threads, benchmark, build]);
    const series = this.#series.get(key) ?? { benchmark, threads, build, points: [] };
    series.points.push(point);
    this.#series.set(key, series);
  }

  get series(): readonly Series[] {
    return [...this.#series.values()];
  }

  /** `bandwidth`: the benchmark whose bytes per second the others are measured by. */
  rows(bandwidth: string): readonly Row[] {
    return this.series.map((s) => {
      const limit = this.series.find((other) => other.benchmark === bandwidth && other.threads === s.threads);
      return rowOf(s, limit && median(defined(limit.points.map((p) => p.bytesPerSecond))));
    });
  }

  ratios(a: string, b: string): readonly Ratio[] {
    return this.series
      .filter((s) => s.build === a)
      .flatMap((s) => {
        const other = this.series.find((o) => o.build === b && o.benchmark === s.benchmark && o.threads === s.threads);
        return other ? [ratioOf(s, other)] : [];
      });
  }
}

function rowOf({ benchmark, threads, build, points }: Series, bandwidth: number | undefined): Row {
  const values = points.map((p) => p.value);
  const bytes = median(defined(points.map((p) => p.bytesPerSecond)));
  return {
    benchmark,
    threads,
    build,
    unit: points[0]?.unit ?? '',
    median: median(values) ?? Number.NaN,
    min: Math.min(...values),
    max: Math.max(...values),
    repetitions: values.length,
    cpuMs: median(defined(points.map((p) => p.cpuMs))),
    gbPerSecond: bytes === undefined ? undefined : bytes / 1e9,
    shareOfBandwidth: bytes === undefined || bandwidth === undefined ? undefined : bytes / bandwidth,
    gflops: median(defined(points.map((p) => p.gflops))),
  };
}

function ratioOf(a: Series, b: Series): Ratio {
  const pairs = a.points.slice(0, b.points.length).map((p, i) => [p, b.points[i] as Point] as const);
  const ratios = pairs.map(([p, q]) => (p.lowerIsBetter ? q.value / p.value : p.value / q.value));
  return {
    benchmark: a.benchmark,
    threads: a.threads,
    median: median(ratios) ?? Number.NaN,
    min: Math.min(...ratios),
    max: Math.max(...ratios),
    cpu: median(defined(pairs.map(([p, q]) => p.cpuMs && q.cpuMs && q.cpuMs / p.cpuMs))),
    sameResults: pairs.every(([p, q]) => p.checksum === q.checksum),
  };
}

/** A Markdown table of rows. */
export function table(rows: readonly Row[]): string {
  const several = new Set(rows.map((r) => r.build).filter((name) => name !== '')).size > 1;
  const columns = ['benchmark', 'threads', ...(several ? ['build'] : []), 'median', 'range', 'CPU ms per unit'];
  return markdown(
    [...columns, 'GB/s', 'of read bandwidth', 'GFLOP/s'],
    rows.map((r) => [
      r.benchmark,
      String(r.threads),
      ...(several ? [r.build] : []),
      `${short(r.median)} ${r.unit}`,
      `${short(r.min)}–${short(r.max)}`,
      cell(r.cpuMs, short),
      cell(r.gbPerSecond, short),
      cell(r.shareOfBandwidth, (x) => `${(x * 100).toFixed(x < 0.1 ? 1 : 0)} %`),
      cell(r.gflops, short),
    ]),
  );
}

export function ratioTable(ratios: readonly Ratio[], a: string, b: string): string {
  return markdown(
    ['benchmark', 'threads', `${a} : ${b}`, 'range', 'by CPU time', 'results'],
    ratios.map((r) => [
      r.benchmark,
      String(r.threads),
      `${r.median.toFixed(2)} ×`,
      `${r.min.toFixed(2)}–${r.max.toFixed(2)}`,
      cell(r.cpu, (x) => `${x.toFixed(2)} ×`),
      r.sameResults ? 'equal' : 'differ',
    ]),
  );
}

export function kernelTable({ results }: KernelReport): string {
  return markdown(
    ['kernel', 'rows x columns', 'GB/s', 'GFLOP/s'],
    results.map((r) => [r.kernel, r.shape, cell(r.gbps, short), short(r.gflops)]),
  );
}

function markdown(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

function cell(value: number | undefined, show: (value: number) => string): string {
  return value === undefined ? '–' : show(value);
}

/** Three digits. */
export function short(value: number): string {
  if (value >= 100) return value.toFixed(0);
  if (value >= 10) return value.toFixed(1);
  return value >= 1 || value === 0 ? value.toFixed(2) : value.toPrecision(2);
}

function defined(values: readonly (number | undefined)[]): number[] {
  return values.filter((v) => v !== undefined);
}

function median(values: readonly number[]): number | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  if (sorted.length === 0) return undefined;
  return sorted.length % 2 ? sorted[half] : ((sorted[half - 1] as number) + (sorted[half] as number)) / 2;
}
