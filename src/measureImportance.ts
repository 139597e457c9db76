/** Importance of a model's weights, from a text that it reads. */
import type { Engine } from './core/engine/engine.ts';
import { ConfigError } from './core/errors.ts';
import { openSource } from './core/io/open.ts';
import type { Platform } from './core/platform.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import { type ModelText, noTokenizer } from './core/sdk/text.ts';
import { type Loaded, whileLoaded } from './load.ts';
import { detectPlatform } from './platform/detect.ts';
import { wholeFile } from './quant/imatrix.ts';
import { byModule, Calibration, calibratedLayers } from './quant/isq/calibration.ts';
import { roleOf, tensorOf } from './quant/isq/plan.ts';

/** Tokens of one piece, those before it not counted. */
const CHUNK_TOKENS = 1024;
/** Room for the token that begins a text, in whole blocks of any cache. */
const CONTEXT = CHUNK_TOKENS + 32;
/** A text this long would keep any model busy for weeks. */
const MAX_TEXT_BYTES = 2 ** 30;

type Asked = LoadOptions & { readonly types?: readonly unknown[] };

/**
 * The options with the text of `calibrationFile` read by the model, and what it tells in `imatrix`. As they are without one.
 * @throws ConfigError beside `imatrix`, and without a type to quantize to.
 */
export async function withImportance<O extends Asked>(
  spec: ModelSpec,
  options: O,
): Promise<O & Pick<LoadOptions, 'imatrix'>> {
  const { calibrationFile: file, imatrix, isq, autoIsq, types, writeUqff } = options;
  if (file === undefined) return options;
  if (imatrix !== undefined) throw new ConfigError('option calibrationFile: expected it or imatrix, got both');
  if ((isq ?? autoIsq ?? types ?? writeUqff) === undefined) {
    throw new ConfigError('option calibrationFile: expected isq too, got none; set the type');
  }
  const platform = await detectPlatform();
  const content = await textOf(file, platform);
  const measured = await whileLoaded(spec, asStored(options), (loaded) => measure(loaded, content, options));
  return { ...options, calibrationFile: undefined, imatrix: measured };
}

async function textOf(file: NonNullable<LoadOptions['calibrationFile']>, platform: Platform): Promise<string> {
  const source = await openSource(file, { platform });
  try {
    return new TextDecoder().decode(await wholeFile(source, MAX_TEXT_BYTES));
  } finally {
    await source.close();
  }
}

/** What finds the model and its device, and nothing that changes it. */
function asStored(o: Asked): LoadOptions {
  return {
    ...{ files: o.files, tokModelId: o.tokModelId, tokenizerJson: o.tokenizerJson, tokenSource: o.tokenSource },
    ...{ hfRevision: o.hfRevision, hfCachePath: o.hfCachePath, hfEndpoint: o.hfEndpoint, offline: o.offline },
    ...{
      device: o.device,
      forceCpu: o.forceCpu,
      threads: o.threads,
      simd: o.simd,
      strict: o.strict,
      adapter: o.adapter,
    },
    ...{ logging: o.logging, onProgress: o.onProgress, signal: o.signal },
    ...{ maxNumSeqs: 1, maxModelLen: CONTEXT, prefixCacheN: 0 },
  };
}

async function measure(
  { opened, engine, text }: Loaded,
  content: string,
  { onProgress, signal }: Asked,
): Promise<Map<string, Float32Array>> {
  if (opened.files.kind === 'uqff') {
    throw new ConfigError('option calibrationFile: expected a model that is not quantized yet, got UQFF files');
  }
  const pieces = piecesOf(content, engine, text);
  const calibration = new Calibration(opened.checkpoint);
  calibration.begin(calibratedLayers(opened.checkpoint, (name) => roleOf(tensorOf(name)) !== 'other'));
  try {
    for (const [i, prompt] of pieces.entries()) {
      // Of the rows of logits nothing is kept.
      await engine.rawLogits({ prompt, signal, onRows: () => undefined });
      onProgress?.({ stage: 'calibrate', done: i + 1, total: pieces.length, unit: 'steps' });
    }
    return byModule(await calibration.harvest());
  } finally {
    calibration.end();
  }
}

/** The tokens of a text in pieces, each behind the token that begins a text where there is one. */
function piecesOf(content: string, engine: Engine, text: ModelText | undefined): Uint32Array[] {
  if (!text) throw noTokenizer('calibrationFile');
  const ids = text.tokenizer.encode(content, { addSpecialTokens: false });
  if (ids.length === 0) throw new ConfigError('option calibrationFile: expected a text, got an empty file');
  const head = text.bosId === undefined ? [] : [text.bosId];
  const size = Math.min(CHUNK_TOKENS, engine.contextLength - head.length);
  return Array.from({ length: Math.ceil(ids.length / size) }, (_, i) =>
    Uint32Array.from([...head, ...ids.subarray(i * size, (i + 1) * size)]),
  );
}
