/** Checkpoints as they were first published: other prefixes, buffers stored beside weights, tensors that nobody reads. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { storageType } from '../../src/core/dtype.ts';
import { WeightError } from '../../src/core/errors.ts';
import type { SourceTensor, WeightSource } from '../../src/core/weights.ts';
import type { Opened } from './harness.ts';
import { fixtures, furthest, LoadedModel, openModel, readPrompts } from './harness.ts';

const backend = new ReferenceBackend();
afterAll(() => backend.dispose());

const extra = (name: string): SourceTensor => ({
  name,
  type: storageType('F32'),
  shape: [1, 4],
  order: 0,
  readRows: async () => expect.unreachable(`${name} is read`),
});

/** The same tensors under other names, and more of them. */
function altered(source: WeightSource, rename: (name: string) => string, more: readonly string[]): WeightSource {
  const stored = new Map([...source.names()].map((name) => [rename(name), name]));
  return {
    names: () => [...stored.keys(), ...more],
    get(name) {
      if (more.includes(name)) return extra(name);
      const own = stored.get(name);
      const found = own === undefined ? undefined : source.get(own);
      return found && { ...found, name };
    },
  };
}

const cases = [
  {
    fixture: 'gpt2',
    says: 'GPT-2 without prefix, with its masks',
    rename: (name: string) => name.replace(/^transformer\./, ''),
    more: ['h.0.attn.bias', 'h.2.attn.masked_bias'],
  },
  {
    fixture: 'gptneox',
    says: 'GPT-NeoX with masks and frequencies',
    rename: (name: string) => name,
    more: ['gpt_neox.layers.0.attention.bias', 'gpt_neox.layers.1.attention.rotary_emb.inv_freq'],
  },
  {
    fixture: 'gptneox',
    says: 'GPT-NeoX whose output matrix has the later name',
    rename: (name: string) => name.replace('embed_out', 'lm_head'),
    more: [],
  },
  {
    fixture: 'gemma4_shared',
    says: 'Gemma 4 with the keys and values of layers that look at those of others',
    rename: (name: string) => name.replace(/^model\./, 'model.language_model.'),
    more: ['k_proj', 'v_proj', 'k_norm'].map((part) => `model.language_model.layers.4.self_attn.${part}.weight`),
  },
];

describe.each(cases)('$says', ({ fixture, rename, more }) => {
  const folder = new URL(`${fixture}/`, fixtures);
  let opened: Opened;
  beforeAll(async () => {
    opened = await openModel(folder);
  });

  it('gives the same logits', async () => {
    const source = altered(opened.source, rename, more);
    const model = await LoadedModel.load(backend, 8, { ...opened, source });
    const [, prompt] = await readPrompts(folder);
    expect(furthest(await model.prefill(prompt!.ids), prompt!.logits)).toBeLessThan(2e-4);
    model.dispose();
  });

  it('has no room for tensors of other models', async () => {
    const source = altered(opened.source, rename, [...more, 'model.layers.0.self_attn.k_proj.other']);
    await expect(LoadedModel.load(backend, 8, { ...opened, source })).rejects.toThrow(WeightError);
  });
});
