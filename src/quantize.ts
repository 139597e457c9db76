/** Writes a model as a GGUF file, quantized. */
import type { RawSection } from './core/backend.ts';
import { ConfigError, UnsupportedError } from './core/errors.ts';
import { exportGguf } from './core/io/ggufExport.ts';
import { type GgufKeyValue, isFloatKey } from './core/io/ggufExportKeys.ts';
import { GGUF_ARCHES, hfName } from './core/io/ggufNames.ts';
import { type GgufBytes, type GgufTensor, ggufMetadataBytes, ggufValue, writeGguf } from './core/io/ggufWrite.ts';
import type { ModelFiles } from './core/io/resolve.ts';
import { sourceTensors } from './core/io/weightSource.ts';
import type { Platform } from './core/platform.ts';
import { isRecord } from './core/schema.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import type { QuantReport } from './core/sdk/quantReport.ts';
import { sizeOf } from './core/tensor.ts';
import { ggufTokenizer } from './core/text/ggufTokenizer.ts';
import type { SourceTensor } from './core/weights.ts';
import { findModel } from './findModel.ts';
import { checkExport, ggufFamily } from './ggufArch.ts';
import { isqSettings } from './isq.ts';
import { withImportance } from './measureImportance.ts';
import { archOf } from './models/registry.ts';
import { sourceOfModel } from './openDecoder.ts';
import { detectPlatform } from './platform/detect.ts';
import { dequantizeInto } from './quant/index.ts';
import { Isq } from './quant/isq/index.ts';
import { Packers } from './quant/isq/packers.ts';

/** Options of `quantizeModel`: what to quantize to, and where the model is. */
export type QuantizeModelOptions = Pick<
  LoadOptions,
  | ('isq' | 'autoIsq' | 'mixtureQexpertsIsq' | 'topology' | 'topologyFromPath' | 'imatrix' | 'calibrationFile')
  | ('files' | 'threads' | 'tokenSource' | 'hfRevision' | 'hfCachePath' | 'hfEndpoint' | 'offline')
  | ('onProgress' | 'signal')
>;

/** Numbers that say of a file what most of its weights are. */
const FILE_TYPES: Readonly<Record<string, number>> = {
  Q4_0: 2,
  Q4_1: 3,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  Q2K: 10,
  Q3K: 11,
  Q4K: 14,
  Q5K: 16,
  Q6K: 18,
  IQ4_NL: 25,
  IQ4_XS: 30,
  MXFP4: 38,
};
const QUANTIZATION_VERSION = 2;

/** Matrices of GGUF files that other tools keep as floats: convolutions, routers, positions, small projections of states. */
const KEPT = /(conv1d|shortconv\.conv|norm|ffn_gate_inp|position_embd|token_types|ssm_[ad]$|rope_f)/;

const codec = { dequantizeInto };

/**
 * Writes a model (anything `loadModel` takes) as one GGUF file, quantized as `isq` and its companions say.
 * @throws UnsupportedError for types, architectures and tokenizers that such files do not have.
 */
export async function quantizeModel(spec: ModelSpec, out: string, asked: QuantizeModelOptions): Promise<QuantReport> {
  const platform = await detectPlatform();
  const options = await withImportance(spec, asked);
  const files = await findModel(spec, options, platform);
  const packers = new Packers({ threads: options.threads ?? platform.hardwareConcurrency() });
  try {
    return await write(files, out, options, platform, packers);
  } finally {
    await packers.dispose();
    await files.close();
  }
}

interface Content {
  readonly config: unknown;
  readonly metadata: Map<string, GgufBytes>;
  /** By the names of modules, which choose the types. */
  readonly tensors: readonly { readonly hf: string; readonly tensor: SourceTensor }[];
}

async function write(
  files: ModelFiles,
  out: string,
  options: QuantizeModelOptions,
  platform: Platform,
  packers: Packers,
): Promise<QuantReport> {
  const started = performance.now();
  const { config, metadata, tensors } = files.kind === 'gguf' ? await fromGguf(files) : await fromFolder(files);
  const settings = await isqSettings(options, platform, config);
  if (!settings) throw new ConfigError('isq: expected a type to quantize to, got none; set isq or a topology');
  const isq = new Isq(settings, packers, settings.importance);
  const entries = tensors.map(({ hf, tensor }) => entryOf(hf, tensor, isq));
  isq.check();
  const report = isq.report(0);
  const type = FILE_TYPES[settings.type ?? ''];
  if (type !== undefined) metadata.set('general.file_type', ggufValue.u32(type));
  metadata.set('general.quantization_version', ggufValue.u32(QUANTIZATION_VERSION));
  const total = entries.reduce((n, e) => n + sizeOf(e.shape), 0);
  let done = 0;
  const writer = await platform.openWriter(`${out}.part`);
  try {
    await writer.truncate(0);
    await writeGguf(
      (at, bytes) => writer.write(at, bytes),
      metadata,
      entries,
      (name) => {
        options.signal?.throwIfAborted();
        done += sizeOf(entries.find((e) => e.name === name)?.shape ?? []);
        options.onProgress?.({ stage: 'load', done, total, unit: 'steps', item: name });
      },
    );
    await writer.close();
    await platform.rename(`${out}.part`, out);
  } catch (error) {
    await writer.close().catch(() => undefined);
    await platform.remove(`${out}.part`);
    throw error;
  }
  return { ...report, seconds: (performance.now() - started) / 1000 };
}

function entryOf(hf: string, tensor: SourceTensor, isq: Isq): GgufTensor {
  const { name, shape } = tensor;
  const rows = sizeOf(shape) / (shape[shape.length - 1] ?? 1);
  const own: RawSection = { type: tensor.type, rows, readRows: (first, n, to) => tensor.readRows(first, n, to) };
  const matrix = shape.length > 1 && name.endsWith('.weight') && !KEPT.test(name);
  const section = (matrix && isq.section({ ...tensor, name: hf })) || own;
  if (section.type.ggml === undefined) {
    const type = section.type.grouping?.label ?? section.type.name;
    throw new UnsupportedError(`tensor "${name}": expected a type of GGUF files, got ${type}; choose another`, {
      feature: `${type} in GGUF files`,
    });
  }
  return { ...section, name, shape };
}

/** Every key as it is, and every tensor in the order of the file; parts of a split model become one. */
async function fromGguf(files: Extract<ModelFiles, { kind: 'gguf' }>): Promise<Content> {
  const { metadata, tensors } = files.checkpoint;
  const first = tensors.values().next().value;
  if (!first) throw new ConfigError(`${files.location}: expected tensors, got none`);
  const own = [...tensors.values()].filter((t) => t.source === first.source);
  const copied = await ggufMetadataBytes(first.source, Math.min(...own.map((t) => t.offset)));
  for (const key of [...copied.keys()]) if (key.startsWith('split.') || key === 'general.alignment') copied.delete(key);
  const name = String(metadata.get('general.architecture'));
  const family = Object.hasOwn(GGUF_ARCHES, name) ? GGUF_ARCHES[name] : undefined;
  if (!family) throw new UnsupportedError(`GGUF architecture: expected a known one, got ${name}`, { feature: name });
  const arch = (metadata.get(`${name}.expert_count`) && family.withExperts) || family;
  return {
    config: { architectures: [arch.hf] },
    metadata: copied,
    tensors: [...sourceTensors(files.checkpoint).values()].map((t) => ({
      hf: hfName(arch, t.name) ?? t.name,
      tensor: t,
    })),
  };
}

async function fromFolder(files: Exclude<ModelFiles, { kind: 'gguf' }>): Promise<Content> {
  const { config, source } = await sourceOfModel(files);
  if (!isRecord(config)) throw new ConfigError(`${files.location}: expected an object in config.json`);
  const family = await ggufFamily(config);
  if (!family) {
    const name = String(config['architectures']);
    throw new UnsupportedError(`architecture: expected one with a form in GGUF files, got ${name}`, {
      feature: `GGUF of ${name}`,
    });
  }
  const parsed = (await archOf(config)).config(config);
  if (!isRecord(parsed)) throw new ConfigError(`${files.location}: expected a config.json of an object`);
  const exported = exportGguf(source, family, config, parsed, codec);
  await checkExport(parsed, exported);
  const { keys, tensors } = exported;
  const metadata = new Map([...keys].map(([key, value]) => [key, bytesOf(key, value)]));
  metadata.set('general.name', ggufValue.string(files.name));
  const tokenizer = await files.tokenizerJson();
  if (isRecord(tokenizer)) {
    const settings = await files.tokenizerConfig();
    const template = await files.chatTemplate();
    const generation = await files.generationConfig();
    const id = (key: string) => {
      const value = [config, generation].map((c) => (isRecord(c) ? c[key] : undefined)).find((v) => v !== undefined);
      const first: unknown = Array.isArray(value) ? value[0] : value;
      return typeof first === 'number' ? first : undefined;
    };
    const chosen = Array.isArray(template) ? template.find((t) => t.name === 'default')?.template : template;
    const keys = ggufTokenizer({
      tokenizer,
      settings: isRecord(settings) ? settings : {},
      chatTemplate: typeof chosen === 'string' ? chosen : undefined,
      bos: id('bos_token_id'),
      eos: id('eos_token_id'),
      vocabSize: typeof config['vocab_size'] === 'number' ? config['vocab_size'] : 0,
    });
    for (const [key, value] of keys) metadata.set(key, value);
  }
  return { config, metadata, tensors };
}

function bytesOf(key: string, value: GgufKeyValue): GgufBytes {
  if (typeof value === 'string') return ggufValue.string(value);
  if (typeof value === 'boolean') return ggufValue.bool(value);
  if (typeof value === 'number') {
    return isFloatKey(key.slice(key.indexOf('.') + 1)) ? ggufValue.f32(value) : ggufValue.u32(value);
  }
  return typeof value[0] === 'boolean'
    ? ggufValue.bools(value as readonly boolean[])
    : ggufValue.i32s(value as readonly number[]);
}
