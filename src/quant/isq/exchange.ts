/** New weights for a model that goes on serving. */
import type { RawSection, RawWeight } from '../../core/backend.ts';
import { rowBytes } from '../../core/dtype.ts';
import type { BetweenSteps } from '../../core/engine/types.ts';
import { AbortError, ChannelError } from '../../core/errors.ts';
import type { Recoder, Weights } from '../../core/weights.ts';
import type { Measured } from './calibration.ts';
import { Importance } from './importance.ts';
import { moduleOf } from './plan.ts';

export interface ExchangeParts {
  readonly weights: Weights;
  /** What quantizes a layer of this importance, or of none. */
  readonly recoder: (importance: Importance | undefined) => Recoder;
  readonly between: BetweenSteps;
  readonly signal: AbortSignal | undefined;
}

export interface FailedLayer {
  readonly modules: readonly string[];
  readonly error: unknown;
}

export interface Exchanged {
  /** Layers that keep what they were. */
  readonly failed: readonly FailedLayer[];
  /** Matrices made from their present values, since the checkpoint is gone. */
  readonly present: number;
}

/**
 * Quantizes layers again by their importance. Each is packed while steps run, and exchanged between two of them. A layer that
 * fails stays as it was. Rejects when the call is aborted or the engine stops; what was exchanged by then stays.
 */
export async function exchangeLayers(measured: readonly Measured[], parts: ExchangeParts): Promise<Exchanged> {
  const { weights, recoder, between, signal } = parts;
  const { backend } = weights;
  const failed: FailedLayer[] = [];
  let present = 0;
  for (const { layer, values } of measured) {
    if (signal?.aborted) throw new AbortError('calibration: the call was aborted', { cause: signal.reason });
    const { matrix, modules } = layer;
    try {
      const names = matrix.weight.experts ? modules : matrix.parts.map((p) => moduleOf(p.name));
      const importance = values && Importance.fromModules(new Map(names.map((name) => [name, values])), 'calibration');
      const next = await weights.recoded(matrix, recoder(importance), between);
      if (!next) continue;
      const raw = await held(next.raw);
      await between(async () => {
        const data = await backend.loadWeight(raw);
        try {
          // Commands that repack rows have run, or failed, by then.
          await backend.flush();
        } catch (error) {
          data.dispose();
          throw error;
        }
        matrix.weight.replace(data);
      });
      if (next.present) present++;
    } catch (error) {
      if (error instanceof ChannelError) throw error;
      failed.push({ modules, error });
    }
  }
  return { failed, present };
}

/** The same weight with all rows read. */
async function held(raw: RawWeight): Promise<RawWeight> {
  const sections: RawSection[] = [];
  for (const { type, rows, readRows } of raw.sections) {
    const stride = rowBytes(type, raw.shape[1]) as number;
    const bytes = new Uint8Array(rows * stride);
    await readRows(0, rows, bytes);
    sections.push({
      type,
      rows,
      readRows: async (first, n, target) => target.set(bytes.subarray(first * stride, (first + n) * stride)),
    });
  }
  return { ...raw, sections };
}
