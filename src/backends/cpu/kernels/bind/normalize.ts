import type { NormOptions, OptionalOps } from '../../../../core/backend.ts';
import type { Tensor } from '../../../../core/tensor.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { allGluKernels, gluKernels } from '../glu.ts';
import { groupNorm, norm } from '../norm.ts';
import { rope } from '../rope.ts';
import { softmax } from '../softmax.ts';
import { entriesOf } from './entries.ts';

export const normalizeKernels = [...allGluKernels, norm, groupNorm, softmax, rope] as readonly Kernel[];

type NormalizeOps = Pick<OptionalOps, 'norm' | 'addNorm' | 'softmax' | 'glu' | 'rope'>;

export function normalizeOps(host: OpHost): NormalizeOps {
  const normEntry = host.entry(norm as Kernel);
  const groupEntry = host.entry(groupNorm as Kernel);
  const softmaxEntry = host.entry(softmax as Kernel);
  const ropeEntry = host.entry(rope as Kernel);
  const glu = entriesOf(host, gluKernels);

  const normRows = (out: Tensor, x: Tensor, add: Tensor | undefined, o: NormOptions): void => {
    const { at } = norm;
    const groups = o.groups ?? 1;
    const n = x.width / groups;
    const c = host.begin(normEntry);
    const { words, floats } = host;
    words[c + at.out] = host.address(out);
    words[c + at.x] = host.address(x);
    words[c + at.add] = add ? host.address(add) : 0;
    words[c + at.weight] = o.weight ? host.address(o.weight) : 0;
    words[c + at.bias] = o.bias ? host.address(o.bias) : 0;
    words[c + at.parts] = x.rowCount * groups;
    words[c + at.n] = n;
    words[c + at.groups] = groups;
    words[c + at.centre] = o.kind === 'layer' ? 1 : 0;
    floats[c + at.eps] = o.eps;
    floats[c + at.divisor] = o.kind === 'l2' ? 1 : n;
    floats[c + at.plus] = o.plusOne ? 1 : 0;
  };

  const normChannels = (out: Tensor, x: Tensor, o: NormOptions): void => {
    const { at } = groupNorm;
    const [batch, channels] = x.shape as readonly [number, number];
    const groups = o.groups ?? 1;
    const c = host.begin(groupEntry);
    const { words, floats } = host;
    words[c + at.out] = host.address(out);
    words[c + at.x] = host.address(x);
    words[c + at.weight] = o.weight ? host.address(o.weight) : 0;
    words[c + at.bias] = o.bias ? host.address(o.bias) : 0;
    words[c + at.parts] = batch * groups;
    words[c + at.groups] = groups;
    words[c + at.channels] = channels / groups;
    words[c + at.plane] = x.size / (batch * channels);
    floats[c + at.eps] = o.eps;
    floats[c + at.plus] = o.plusOne ? 1 : 0;
  };

  return {
    norm(out, x, options) {
      if (options.kind === 'group') normChannels(out, x, options);
      else normRows(out, x, undefined, options);
    },
    addNorm(out, residual, x, options) {
      normRows(out, residual, x, options);
    },
    softmax(out, x, scale, mask) {
      const { at } = softmax;
      const c = host.begin(softmaxEntry);
      const { words } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.mask] = mask ? host.address(mask) : 0;
      words[c + at.maskRow] = mask && mask.size === x.size ? x.width * 4 : 0;
      words[c + at.rows] = x.rowCount;
      words[c + at.width] = x.width;
      host.floats[c + at.scale] = scale;
    },
    glu(out, x, options) {
      const name = options.clamped ? 'clamped' : options.activation;
      const { at } = gluKernels[name];
      const c = host.begin(glu[name]);
      const { words, floats } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.rows] = out.rowCount;
      words[c + at.width] = out.width;
      words[c + at.interleaved] = options.interleaved ? 1 : 0;
      floats[c + at.alpha] = options.clamped?.alpha ?? 0;
      floats[c + at.limit] = options.clamped?.limit ?? 0;
    },
    rope(x, cosSin, options) {
      const { at } = rope;
      const c = host.begin(ropeEntry);
      const { words } = host;
      words[c + at.x] = host.address(x);
      words[c + at.cosSin] = host.address(cosSin);
      words[c + at.rows] = x.rowCount;
      words[c + at.heads] = x.width / options.headDim;
      words[c + at.headDim] = options.headDim;
      words[c + at.half] = options.rotaryDim / 2;
      words[c + at.interleaved] = options.interleaved ? 1 : 0;
    },
  };
}
