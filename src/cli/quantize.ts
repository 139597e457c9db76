/** `tramontane quantize`: a model as a GGUF file of another type, or as UQFF files. */
import { ConfigError } from '../core/errors.ts';
import { type LoadProgressEvent, type QuantReport, quantizeModel, writeUqff } from '../index.ts';
import { loadOptions, type ModelFlags } from './flags.ts';

type SharedFlags = 'model' | 'file' | 'threads' | 'imatrix' | 'calibrationFile' | 'topology' | 'expertsOnly';

export interface QuantizeFlags extends Pick<ModelFlags, SharedFlags> {
  readonly isq?: readonly string[];
  readonly output?: string;
  readonly readme?: boolean;
  readonly uqffBaseModel?: string;
  readonly uqffRepoId?: string;
  readonly tokModelId?: string;
  readonly quiet?: boolean;
}

const MIB = 2 ** 20;
const STAGES: Readonly<Record<string, string>> = {
  load: 'quantizing',
  quantize: 'quantizing',
  calibrate: 'calibrating',
};

export async function quantize(flags: QuantizeFlags): Promise<void> {
  const { output, quiet, isq = [], ...shared } = flags;
  if (output === undefined)
    throw new ConfigError('-o: expected a .gguf or .uqff file, or a folder for UQFF files, got none');
  const model = flags.model ?? 'smollm2-135m-instruct';
  const options = {
    ...loadOptions(shared),
    onProgress: progress(quiet === true),
  };
  let reports: readonly QuantReport[];
  if (output.endsWith('.gguf')) {
    if (isq.length > 1) throw new ConfigError(`--isq: expected one type for a .gguf file, got ${isq.join(', ')}`);
    reports = [await quantizeModel(model, output, { ...options, isq: isq[0] })];
  } else {
    reports = await writeUqff(model, output, {
      ...options,
      types: isq,
      tokModelId: flags.tokModelId,
      baseModel: flags.uqffBaseModel,
      repoId: flags.uqffRepoId,
      noReadme: flags.readme === false,
    });
  }
  if (quiet) return;
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K');
  for (const report of reports) describe(output, report);
}

function progress(quiet: boolean): (event: LoadProgressEvent) => void {
  let shown = 0;
  return ({ stage, done, total, item }) => {
    const percent = Math.floor((100 * done) / total);
    if (quiet || !process.stderr.isTTY || (percent === shown && done < total)) return;
    shown = percent;
    process.stderr.write(`\r\u001b[K${STAGES[stage] ?? stage} ${percent} %${item ? `  ${item}` : ''}`);
  };
}

function describe(output: string, { default: type, bytesBefore, bytesAfter, seconds, layers }: QuantReport): void {
  const mib = (bytes: number) => (bytes / MIB).toFixed(1);
  process.stderr.write(
    `${output}: ${type ?? 'types of the topology'}: ${layers.length} matrices, ${mib(bytesBefore)} MiB became ${mib(bytesAfter)} MiB in ${seconds.toFixed(1)} s\n`,
  );
  const replaced = layers.filter((l) => l.fallback).length;
  if (replaced > 0)
    process.stderr.write(`${replaced} of them have another type, since their rows do not divide into blocks\n`);
}
