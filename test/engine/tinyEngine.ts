/** The tiny model in an engine of its own, on a back-end that stays the caller's. */
import type { Backend } from '../../src/core/backend.ts';
import { Engine } from '../../src/core/engine/engine.ts';
import { readGguf } from '../../src/core/io/gguf.ts';
import { ggufModel } from '../../src/core/io/ggufModel.ts';
import { DecoderRunner } from '../../src/core/runner.ts';
import { Weights } from '../../src/core/weights.ts';
import { buildDecoder } from '../../src/models/arch.ts';
import { archOf } from '../../src/models/registry.ts';
import { dequantizeInto } from '../../src/quant/index.ts';
import { tinyBytes } from '../e2e/tiny.ts';

export async function engineOn(backend: Backend): Promise<{ engine: Engine; close(): Promise<void> }> {
  const { config, source } = await ggufModel(await readGguf(tinyBytes));
  const arch = await archOf(config);
  const weights = Weights.open({ backend, source, codec: { dequantizeInto } });
  const decoder = buildDecoder(arch, weights, arch.config(config));
  await weights.load();
  const runner = new DecoderRunner(backend, decoder, {
    ...{ blocks: 16, blockSize: 32, maxRows: 64, maxSequences: 4, maxBlocks: 8 },
  });
  const engine = new Engine(runner, { maxNumSeqs: 4, prefixCache: false });
  const close = async () => {
    await engine.dispose();
    runner.dispose();
    weights.dispose();
  };
  return { engine, close };
}
