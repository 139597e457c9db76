/** `tramontane quantize`: a model as a GGUF file of another type. */
import { ConfigError } from '../core/errors.ts';
import { quantizeModel } from '../index.ts';
import { loadOptions, type ModelFlags } from './flags.ts';

export interface QuantizeFlags extends ModelFlags {
  readonly isq?: string;
  readonly output?: string;
  readonly imatrix?: string;
  readonly topology?: string;
  readonly expertsOnly?: boolean;
  readonly quiet?: boolean;
}

const MIB = 2 ** 20;

export async function quantize(flags: QuantizeFlags): Promise<void> {
  const { output, quiet } = flags;
  if (output === undefined) throw new ConfigError('-o: expected the name of a .gguf file, got none');
  if (!output.endsWith('.gguf')) throw new ConfigError(`-o: expected a name that ends in .gguf, got ${output}`);
  const { files, threads } = loadOptions(flags);
  let shown = 0;
  const report = await quantizeModel(flags.model ?? 'smollm2-135m-instruct', output, {
    files,
    threads,
    isq: flags.isq,
    imatrix: flags.imatrix,
    topologyFromPath: flags.topology,
    mixtureQexpertsIsq: flags.expertsOnly,
    onProgress: ({ stage, done, total, item }) => {
      const percent = Math.floor((100 * done) / total);
      if (quiet || !process.stderr.isTTY || (percent === shown && done < total)) return;
      shown = percent;
      process.stderr.write(
        `\r\u001b[K${stage === 'load' ? 'quantizing' : stage} ${percent} %${item ? `  ${item}` : ''}`,
      );
    },
  });
  if (quiet) return;
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K');
  const { bytesBefore, bytesAfter, seconds, layers } = report;
  const mib = (bytes: number) => (bytes / MIB).toFixed(1);
  process.stderr.write(
    `${output}: ${layers.length} matrices, ${mib(bytesBefore)} MiB became ${mib(bytesAfter)} MiB in ${seconds.toFixed(1)} s\n`,
  );
  const replaced = layers.filter((l) => l.fallback).length;
  if (replaced > 0)
    process.stderr.write(`${replaced} of them have another type, since their rows do not divide into blocks\n`);
}
