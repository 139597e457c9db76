import type { Batch, OptionalOps } from '../../../../core/backend.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { causalConv } from '../recurrent/causalConv.ts';
import { gatedDelta } from '../recurrent/gatedDelta.ts';
import { ssmScan } from '../recurrent/ssmScan.ts';
import type { SEQUENCE_FIELDS } from '../recurrent/units.ts';

export const recurrentKernels = [causalConv, ssmScan, gatedDelta] as readonly Kernel[];

type RecurrentOps = Pick<OptionalOps, 'causalConv' | 'ssmScan' | 'gatedDelta'>;

export function recurrentOps(host: OpHost): RecurrentOps {
  const conv = host.entry(causalConv as Kernel);
  const scan = host.entry(ssmScan as Kernel);
  const delta = host.entry(gatedDelta as Kernel);

  const sequences = (c: number, at: { readonly [K in keyof typeof SEQUENCE_FIELDS]: number }, batch: Batch): void => {
    const { words } = host;
    words[c + at.seqStart] = host.address(batch.seqStart);
    words[c + at.kvLen] = host.address(batch.kvLen);
    words[c + at.stateSlots] = host.address(batch.stateSlots);
    words[c + at.sequences] = batch.sequences;
  };

  return {
    causalConv(out, x, w, state, batch, o) {
      const { at } = causalConv;
      const c = host.begin(conv);
      const { words } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x) + 4 * o.start;
      words[c + at.w] = host.address(w);
      words[c + at.bias] = o.bias ? host.address(o.bias) : 0;
      words[c + at.state] = host.address(state);
      words[c + at.stride] = x.width;
      words[c + at.channels] = w.width;
      words[c + at.kernel] = w.shape[0] as number;
      words[c + at.silu] = o.silu ? 1 : 0;
      sequences(c, at, batch);
    },

    ssmScan(out, x, dt, state, batch, o) {
      const { at } = ssmScan;
      const c = host.begin(scan);
      const { words, floats } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.dt] = host.address(dt) + 4 * o.start;
      words[c + at.state] = host.address(state);
      words[c + at.decay] = host.address(o.decay);
      words[c + at.bias] = host.address(o.bias);
      words[c + at.skip] = host.address(o.skip);
      words[c + at.dtStride] = dt.width;
      words[c + at.heads] = o.heads;
      words[c + at.share] = o.heads / o.groups;
      words[c + at.groups] = o.groups;
      words[c + at.headDim] = o.headDim;
      words[c + at.stateDim] = o.stateDim;
      floats[c + at.minStep] = o.minStep;
      floats[c + at.maxStep] = o.maxStep;
      sequences(c, at, batch);
    },

    gatedDelta(out, x, gates, state, batch, o) {
      const { at } = gatedDelta;
      const c = host.begin(delta);
      const { words, floats } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.gates] = host.address(gates) + 4 * o.start;
      words[c + at.state] = host.address(state);
      words[c + at.decay] = host.address(o.decay);
      words[c + at.bias] = host.address(o.bias);
      words[c + at.gateStride] = gates.width;
      words[c + at.heads] = o.valueHeads;
      words[c + at.share] = o.valueHeads / o.keyHeads;
      words[c + at.keyHeads] = o.keyHeads;
      words[c + at.cyclic] = o.cyclic ? 1 : 0;
      words[c + at.keyDim] = o.keyDim;
      words[c + at.valueDim] = o.valueDim;
      floats[c + at.scale] = o.scale;
      floats[c + at.eps] = o.eps;
      sequences(c, at, batch);
    },
  };
}
