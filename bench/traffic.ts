/** What one decoded token reads from memory, as the checkpoint stores it. */
import { ReferenceBackend } from '../src/backends/reference/index.ts';
import { rowBytes } from '../src/core/dtype.ts';
import { ggufModel } from '../src/core/io/ggufModel.ts';
import { safetensorsSource } from '../src/core/io/weightSource.ts';
import { bytesPerPosition } from '../src/core/sdk/cacheSize.ts';
import type { SourceTensor } from '../src/core/weights.ts';
import { Weights } from '../src/core/weights.ts';
import { findModel } from '../src/findModel.ts';
import { buildDecoder } from '../src/models/arch.ts';
import { archOf } from '../src/models/registry.ts';
import { detectPlatform } from '../src/platform/detect.ts';
import { dequantizeInto } from '../src/quant/index.ts';

export interface Traffic {
  /** Bytes of all tensors. */
  readonly modelBytes: number;
  /** Bytes of the matrices that one step multiplies with: of experts, the share that is chosen. */
  readonly weightBytes: number;
  /** Elements of those matrices: two operations each for one token. */
  readonly parameters: number;
  /** Keys and values of one position, all layers. */
  readonly cacheBytes: number;
}

/** Reads the headers of a model, no weights. */
export async function trafficOf(path: string): Promise<Traffic> {
  const files = await findModel(path, { offline: true }, await detectPlatform());
  const backend = new ReferenceBackend();
  try {
    const { config, source } =
      files.kind === 'gguf'
        ? await ggufModel(files.checkpoint)
        : { config: await files.config(), source: safetensorsSource(files.checkpoint) };
    const arch = await archOf(config);
    const weights = Weights.open({ backend, source, codec: { dequantizeInto } });
    const { caches } = buildDecoder(arch, weights, arch.config(config));
    const tensors = [...source.names()].map((name) => source.get(name)).filter((t) => t !== undefined);
    const ownHead = tensors.some((t) => t.name.endsWith('lm_head.weight'));
    const expertShare = shareOfExperts(config as Readonly<Record<string, unknown>>);
    let [modelBytes, weightBytes, parameters] = [0, 0, 0];
    for (const t of tensors) {
      const bytes = bytesOf(t);
      modelBytes += bytes;
      // Of a token table that is not the output matrix too, a token reads one row.
      if (t.shape.length < 2 || (ownHead && t.name.endsWith('embed_tokens.weight'))) continue;
      const share = t.name.includes('.experts.') ? expertShare : 1;
      weightBytes += bytes * share;
      parameters += t.shape.reduce((n, x) => n * x, share);
    }
    return { modelBytes, weightBytes, parameters, cacheBytes: bytesPerPosition(caches) };
  } finally {
    await backend.dispose();
    await files.close();
  }
}

function shareOfExperts(config: Readonly<Record<string, unknown>>): number {
  const used = Number(config['num_experts_per_tok']);
  const all = Number(config['num_experts'] ?? config['num_local_experts']);
  return used > 0 && all > 0 ? used / all : 1;
}

function bytesOf({ shape, type }: SourceTensor): number {
  const width = shape.at(-1) ?? 1;
  const rows = shape.slice(0, -1).reduce((n, x) => n * x, 1);
  return rows * (rowBytes(type, width) ?? 0);
}
