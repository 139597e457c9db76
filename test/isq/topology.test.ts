import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ConfigError, loadModel } from '../../src/index.ts';
import { parseTopology, topologyOf } from '../../src/quant/isq/topology.ts';
import { SMALL, temporaryFolder, writeModel } from './models.ts';

/** Types of layers 0 to 5. */
const typesOf = (input: unknown, name = 'model.layers.0.mlp.up_proj.weight') => {
  const t = topologyOf(input);
  return Array.from({ length: 6 }, (_, layer) => t.find(name, layer)?.isq);
};
const [a, b, c] = ['Q8_0', 'Q4K', 'Q2K'];
const no = undefined;

describe('topology', () => {
  it.each<[string, Record<string, object>, (string | undefined)[]]>([
    ['one layer', { 2: { isq: a } }, [no, no, a, no, no, no]],
    ['a range without its end', { '1-3': { isq: a } }, [no, a, a, no, no, no]],
    ['ranges beside one another', { '0-2': { isq: a }, '2-4': { isq: b } }, [a, a, b, b, no, no]],
    ['the later end wins', { '0-4': { isq: a }, '2-6': { isq: b } }, [a, a, b, b, b, b]],
    ['whatever the order', { '2-6': { isq: b }, '0-4': { isq: a } }, [a, a, b, b, b, b]],
    ['the later one of equal ends', { '0-4': { isq: a }, '2-4': { isq: b } }, [a, a, b, b, no, no]],
    ['even when it is larger', { '2-4': { isq: b }, '0-4': { isq: a } }, [a, a, a, a, no, no]],
    ['a larger one over a layer within', { '0-6': { isq: a }, '2-3': { isq: b } }, [a, a, a, a, a, a]],
    ['three', { '0-3': { isq: a }, '1-5': { isq: b }, '2-4': { isq: c } }, [a, b, b, b, b, no]],
    ['devices hide types', { '0-3': { isq: a }, '1-4': { device: 'cpu' } }, [a, no, no, no, no, no]],
    ['names before ranges', { '/up_proj/': { isq: c }, '0-6': { isq: a } }, [c, c, c, c, c, c]],
    ['the later name', { '/mlp/': { isq: a }, '/up_proj/': { isq: b }, '0-2': { isq: c } }, [b, b, b, b, b, b]],
    ['names that do not match', { '/down_proj/': { isq: c }, '0-2': { isq: a } }, [a, a, no, no, no, no]],
  ])('%s', (_name, input, expected) => {
    expect(typesOf(input)).toEqual(expected);
  });

  it('reads YAML and JSON alike', () => {
    const yaml = [
      '# by hand',
      '0-2:',
      '  isq: Q4K',
      '  device: cpu',
      "'/lm_head/':",
      '  isq: "8"  # bits',
      '4: { isq: q2k }',
    ].join('\n');
    const json = '{"0-2":{"isq":"Q4K","device":"cpu"},"/lm_head/":{"isq":8},"4":{"isq":"q2k"}}';
    for (const t of [parseTopology(yaml), parseTopology(json)]) {
      expect([0, 1, 2, 4].map((l) => t.find('x', l)?.isq)).toEqual(['Q4K', 'Q4K', no, 'Q2K']);
      expect(t.find('lm_head.weight', undefined)?.isq).toBe('Q8_0');
      expect([...t.devices]).toEqual(['cpu']);
    }
  });

  it.each([
    ['3-3:\n  isq: Q4K', /end above 3/],
    ['5-2:\n  isq: Q4K', /end above 5/],
    ['x:\n  isq: Q4K', /layer "n"/],
    ['/(/:\n  isq: Q4K', /regular expression/],
    ['1:\n  isq: Q99', /"Q99"/],
    ['1:\n  type: Q4K', /"type"/],
    ['1:\n  device: tpu', /tpu/],
    ['  isq: Q4K', /line 1/],
    ['1:\n  isq: Q4K\n1:\n  isq: Q8_0', /once/],
    ['nonsense', /line 1/],
    ['{"1":', /JSON/],
    ['{"1":5}', /isq and\/or device/],
  ])('refuses %j', (text, message) => {
    expect(() => parseTopology(text)).toThrow(ConfigError);
    expect(() => parseTopology(text)).toThrow(message);
  });

  it('pins layers and weights of a model, over promotion and the common type', async () => {
    const folder = writeModel({ ...SMALL, layers: 3 });
    const path = join(temporaryFolder(), 'topology.yml');
    writeFileSync(path, '1-2:\n  isq: Q2K\n/lm_head/:\n  isq: Q4_0\n');
    const model = await loadModel(folder, { device: 'reference', isq: 'Q8_0', topologyFromPath: path });
    const stored = new Map(model.quantReport().layers.map((l) => [l.module, l]));
    expect(stored.get('lm_head')).toMatchObject({ stored: 'Q4_0', pinned: true });
    const at = (layer: number) => stored.get(`model.layers.${layer}.self_attn.k_proj`)?.stored;
    expect([0, 1, 2].map(at)).toEqual(['Q8_0', 'Q2K', 'Q8_0']);
    await model.dispose();
    const alone = await loadModel(folder, { device: 'reference', topology: { 1: { isq: 4 } } });
    expect(alone.quantReport().default).toBeUndefined();
    expect(
      alone
        .quantReport()
        .layers.map((l) => l.module)
        .every((m) => m.startsWith('model.layers.1.')),
    ).toBe(true);
    await alone.dispose();
  });
});
