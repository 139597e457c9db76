/** One build with one model, in a process of its own: loads when asked to, then runs what `bench/run.ts` asks for. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type * as Tramontane from '../src/index.ts';
import type { LoadOptions, Model, ModelInfo } from '../src/index.ts';
import { type BatchInput, batch } from './batch.bench.ts';
import { serve } from './child.ts';
import { type DecodeInput, decode } from './decode.bench.ts';
import { type PrefillInput, prefill } from './prefill.bench.ts';
import { type RepeatedInput, repeated, type ServingInput, serving } from './serving.bench.ts';
import { type EncodeInput, encode } from './tokenizer.bench.ts';

export interface SubjectInput {
  /** Folder of a build. */
  readonly dist: string;
  readonly model: string;
  readonly options: LoadOptions;
}

let model: Model | undefined;

async function load({ dist, model: path, options }: SubjectInput): Promise<ModelInfo> {
  const { loadModel } = (await import(pathToFileURL(join(dist, 'index.js')).href)) as typeof Tramontane;
  model = await loadModel(path, options);
  return model.config();
}

function loaded(): Model {
  if (!model) throw new Error('subject: expected `load` first');
  return model;
}

serve({
  load,
  decode: (input: DecodeInput) => decode(loaded(), input),
  prefill: (input: PrefillInput) => prefill(loaded(), input),
  batch: (input: BatchInput) => batch(loaded(), input),
  serving: (input: ServingInput) => serving(loaded(), input),
  repeated: (input: RepeatedInput) => repeated(loaded(), input),
  encode: (input: EncodeInput) => encode(loaded(), input),
});
