import { describe, expect, it } from 'vitest';
import { BatchBuilder } from '../../src/core/engine/batch.ts';
import { Plan } from '../../src/core/engine/plan.ts';
import { type Sequence, SequenceGroup } from '../../src/core/engine/sequence.ts';

const limits = { maxRows: 8, maxSequences: 3, maxLogitRows: 4 };

function sequence(tokens: number[], computed: number, blocks: number[], promptLength = tokens.length): Sequence {
  const group = new SequenceGroup(0, tokens.slice(0, promptLength), 4, { choices: 1, raw: false });
  const s = group.sequences[0]!;
  for (const token of tokens.slice(promptLength)) s.append(token);
  for (const block of blocks) s.pushBlock(block);
  s.computed = computed;
  return s;
}

describe('BatchBuilder', () => {
  it('packs prefill, decode and raw rows behind one another', () => {
    const builder = new BatchBuilder({ ...limits, maxBlocks: 4, blockSize: 4 });
    const plan = new Plan(limits);
    plan.add(sequence([10, 11, 12, 13, 14, 15, 16, 17], 3, [5, 9]), 3, 0);
    plan.add(sequence([20, 21, 22, 23, 24], 4, [7, 2, 3], 2), 1, 1);
    plan.add(sequence([30, 31, 32], 0, [0]), 3, 3);
    plan.copy(1, 2);
    const b = builder.build(plan);
    expect([b.rows, b.sequences, b.blocksPerSequence, b.logitCount, b.copyCount]).toEqual([7, 3, 3, 4, 1]);
    expect([...b.tokens.subarray(0, 7)]).toEqual([13, 14, 15, 24, 30, 31, 32]);
    expect([...b.positions.subarray(0, 7)]).toEqual([3, 4, 5, 4, 0, 1, 2]);
    expect([...b.slots.subarray(0, 7)]).toEqual([23, 36, 37, 8, 0, 1, 2]);
    expect([...b.seqStart]).toEqual([0, 3, 4, 7]);
    expect([...b.kvLen]).toEqual([6, 5, 3]);
    expect([...b.baseLen]).toEqual([8, 2, 3]);
    expect([...b.blockTable.subarray(0, 9)]).toEqual([5, 9, -1, 7, 2, 3, 0, -1, -1]);
    expect([...b.logitRows]).toEqual([3, 4, 5, 6]);
    expect([...b.copies.subarray(0, 2)]).toEqual([1, 2]);
  });

  it('keeps its arrays', () => {
    const builder = new BatchBuilder({ ...limits, maxBlocks: 4, blockSize: 4 });
    const plan = new Plan(limits);
    plan.add(sequence([1, 2], 0, [0]), 2, 1);
    const first = builder.build(plan);
    const { tokens } = first;
    plan.clear();
    expect(builder.build(plan)).toBe(first);
    expect(first.tokens).toBe(tokens);
    expect([first.rows, first.sequences, first.logitCount]).toEqual([0, 0, 0]);
  });
});
