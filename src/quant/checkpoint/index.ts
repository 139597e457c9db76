/** Checkpoints that other tools have quantized, as sources of ordinary matrices. */
import { ConfigError, UnsupportedError } from '../../core/errors.ts';
import { isRecord } from '../../core/schema.ts';
import type { WeightSource } from '../../core/weights.ts';
import { readAwq } from './awq.ts';
import { readBitsandbytes } from './bitsandbytes.ts';
import { readCompressed } from './compressed.ts';
import { readFp8 } from './fp8.ts';
import { readGptq } from './gptq.ts';
import { readHqq } from './hqq.ts';
import { readMlx } from './mlx.ts';
import { Replaced, record } from './parts.ts';

/** Registers the matrices of a checkpoint; reads small tensors at most. */
type Reader = (r: Replaced, settings: Readonly<Record<string, unknown>>) => Promise<void> | void;

const READERS: Readonly<Record<string, Reader>> = {
  gptq: readGptq,
  awq: readAwq,
  fp8: readFp8,
  fbgemm_fp8: readFp8,
  bitsandbytes: readBitsandbytes,
  'compressed-tensors': readCompressed,
  compressed_tensors: readCompressed,
  hqq: readHqq,
  mlx: readMlx,
  // Experts keep their blocks and scales, which models read themselves.
  mxfp4: () => undefined,
};

/**
 * A checkpoint as models read it: what `quantization_config` (or `quantization`) of its config.json says about packed
 * tensors is undone, so that `x.qweight`, `x.scales`, … are one matrix `x.weight`, whose rows keep their codes and scales.
 * Without such settings the source is returned as it is.
 * @throws UnsupportedError for methods and layouts that cannot be read, FormatError when tensors do not fit the settings.
 */
export async function quantizedSource(source: WeightSource, config: unknown): Promise<WeightSource> {
  const found = settingsOf(config);
  if (!found) return source;
  const reader = Object.hasOwn(READERS, found.method) ? READERS[found.method] : undefined;
  if (!reader) {
    const known = Object.keys(READERS).join(', ');
    throw new UnsupportedError(
      `quantization_config.quant_method: expected one of ${known}; got "${found.method}"; use another version of the model`,
      { feature: `${found.method} checkpoints` },
    );
  }
  const replaced = new Replaced(source);
  await reader(replaced, found.settings);
  return replaced.result();
}

interface Found {
  readonly method: string;
  readonly settings: Readonly<Record<string, unknown>>;
}

function settingsOf(config: unknown): Found | undefined {
  const root = record(config);
  const text = record(root['text_config']);
  const settings = [root, text]
    .flatMap((c) => [c['quantization_config'], c['compression_config'], c['quantization']])
    .find((s) => s !== undefined && s !== null);
  if (settings === undefined) return undefined;
  if (!isRecord(settings)) {
    throw new ConfigError(`quantization_config: expected an object, got ${JSON.stringify(settings)}`);
  }
  const named = settings['quant_method'];
  if (typeof named === 'string') return { method: named.toLowerCase(), settings };
  if (named !== undefined) {
    throw new ConfigError(`quantization_config.quant_method: expected a string, got ${JSON.stringify(named)}`);
  }
  if (settings['load_in_4bit'] === true || settings['load_in_8bit'] === true) {
    return { method: 'bitsandbytes', settings };
  }
  if (settings['config_groups'] !== undefined) return { method: 'compressed-tensors', settings };
  if (settings['bits'] !== undefined && settings['group_size'] !== undefined) return { method: 'mlx', settings };
  throw new UnsupportedError(
    'quantization_config: expected a quant_method, got none; use another version of the model',
    {
      feature: 'quantization_config',
    },
  );
}
