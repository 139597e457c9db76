/** A forward pass by the argument names that the reference implementations of models use. */
import type { RawLogits } from '../engine/types.ts';
import { ShapeError, UnsupportedError } from '../errors.ts';
import { hostTensor } from '../host.ts';
import { sizeOf, Tensor } from '../tensor.ts';
import { promptIds } from './validate.ts';

/** A tensor, data with a shape, or one axis of numbers. */
export type NamedInput =
  | Tensor
  | { readonly data: ArrayLike<number>; readonly shape: readonly number[] }
  | ArrayLike<number>;

export interface NamedForward {
  /**
   * `input_ids` `[T]` gives `logits` `[T, vocab]`, `[B, T]` gives `[B, T, vocab]`, in f32. `attention_mask` is accepted
   * when it masks nothing. Other names throw `UnsupportedError`.
   */
  forward(inputs: Readonly<Record<string, NamedInput>>): Promise<Record<string, Tensor>>;
}

/** Sequences of one call; each runs through the engine on its own. */
const MAX_SEQUENCES = 4096;

export function namedForward(vocab: number, run: (ids: Uint32Array) => Promise<RawLogits>): NamedForward {
  return {
    async forward(inputs) {
      for (const name of Object.keys(inputs)) {
        if (name !== 'input_ids' && name !== 'attention_mask') {
          throw new UnsupportedError(
            `forward: expected input_ids or attention_mask, got ${name}; this is a text model`,
            {
              feature: name,
            },
          );
        }
      }
      const ids = await read('input_ids', inputs['input_ids']);
      if (ids.shape.length < 1 || ids.shape.length > 2) {
        throw new ShapeError(`forward: input_ids: expected shape [T] or [B, T], got [${ids.shape}]`);
      }
      if (inputs['attention_mask'] !== undefined) {
        const mask = await read('attention_mask', inputs['attention_mask']);
        if (mask.data.length !== ids.data.length || Array.from(mask.data).some((m) => m !== 1)) {
          throw new UnsupportedError(
            'forward: attention_mask: expected ones in the shape of input_ids, got others; run sequences of unequal length one by one',
            { feature: 'attention_mask' },
          );
        }
      }
      const length = ids.shape[ids.shape.length - 1] as number;
      const sequences = ids.shape.length === 2 ? (ids.shape[0] as number) : 1;
      if (sequences < 1 || sequences > MAX_SEQUENCES) {
        throw new ShapeError(`forward: input_ids: expected 1 to ${MAX_SEQUENCES} sequences, got ${sequences}`);
      }
      const prompts = Array.from({ length: sequences }, (_, s) =>
        promptIds(
          Array.from({ length }, (_, i) => ids.data[s * length + i] as number),
          vocab,
        ),
      );
      const logits = new Float32Array(sequences * length * vocab);
      let at = 0;
      for (const { chunks } of await Promise.all(prompts.map(run))) {
        for (const chunk of chunks) {
          logits.set(chunk, at);
          at += chunk.length;
        }
      }
      return { logits: hostTensor(logits, [...ids.shape, vocab]) };
    },
  };
}

async function read(name: string, input: NamedInput | undefined) {
  if (input === undefined || input === null) {
    throw new ShapeError(`forward: ${name}: expected a tensor or numbers, got ${input}`);
  }
  if (input instanceof Tensor) return { data: (await input.read()) as ArrayLike<number>, shape: input.shape };
  if ('data' in input && 'shape' in input) {
    if (sizeOf(input.shape) !== input.data.length) {
      throw new ShapeError(
        `forward: ${name}: expected ${sizeOf(input.shape)} values for shape [${input.shape}], got ${input.data.length}`,
      );
    }
    return { data: input.data, shape: input.shape };
  }
  return { data: input as ArrayLike<number>, shape: [(input as ArrayLike<number>).length] };
}
