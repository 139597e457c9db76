import { describe, expect, it } from 'vitest';
import { checkedHalves } from '../../src/backends/finite.ts';
import type { RawSection } from '../../src/core/backend.ts';
import { rowBytes, type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import { WeightError } from '../../src/core/errors.ts';
import { quantFormat, quantize, quantTypes } from '../../src/quant/index.ts';

const COLUMNS = 512;
const ROWS = 6;
const halfTypes = quantTypes
  .filter((t) => t.name === 'F16' || (!t.wholeTensor && quantFormat(t.name).halves))
  .map((t) => t.name as StorageTypeName);

/** Ordinary numbers in any format: those that cannot be written get codes of zero. */
function sample(type: StorageTypeName): Uint8Array {
  const values = Float32Array.from({ length: ROWS * COLUMNS }, (_, i) => Math.sin(i) * 60000);
  if (quantFormat(type).pack) return quantize(type, values, COLUMNS);
  return new Uint8Array(ROWS * rowBytes(storageType(type), COLUMNS)!);
}

function section(type: StorageTypeName, bytes: Uint8Array): RawSection {
  const stored = rowBytes(storageType(type), COLUMNS)!;
  return {
    type: storageType(type),
    rows: ROWS,
    readRows: async (first, rows, target) => target.set(bytes.subarray(first * stored, (first + rows) * stored)),
  };
}

describe.each(halfTypes)('%s', (type) => {
  const { blockBytes } = storageType(type);
  const stored = rowBytes(storageType(type), COLUMNS)!;
  const read = (bytes: Uint8Array, first = 0, rows = ROWS, shift = 0) =>
    checkedHalves(section(type, bytes), 'some', 100, COLUMNS).readRows(
      first,
      rows,
      new Uint8Array(rows * stored + shift).subarray(shift),
    );

  it('is read as it is when all numbers are finite', async () => {
    const bytes = sample(type);
    const target = new Uint8Array(bytes.length);
    await checkedHalves(section(type, bytes), 'some', 0, COLUMNS).readRows(0, ROWS, target);
    expect(target).toEqual(bytes);
  });

  it('is refused with the row where a number is infinite or none', async () => {
    for (const offset of type === 'F16' ? [0] : quantFormat(type).halves!) {
      for (const [row, block] of [
        [0, 0],
        [4, 1],
        [5, stored / blockBytes - 1],
      ] as const) {
        for (const bits of [0x7c00, 0xfc00, 0x7e01]) {
          const bytes = sample(type);
          new DataView(bytes.buffer).setUint16(row * stored + block * blockBytes + offset, bits, true);
          for (const shift of [0, 2, 1]) {
            await expect(read(bytes, 0, ROWS, shift)).rejects.toThrow(WeightError);
            await expect(read(bytes, 0, ROWS, shift)).rejects.toThrow(
              new RegExp(`weight "some": expected finite .*, got infinity or NaN in row ${100 + row};`),
            );
          }
          if (row > 3) await expect(read(bytes, 0, row)).resolves.toBeUndefined();
          if (row > 3) await expect(read(bytes, 3, 3)).rejects.toThrow(`row ${100 + row};`);
        }
      }
    }
  });
});

it('there are many such types, and others are passed through', () => {
  expect(halfTypes.length).toBeGreaterThan(18);
  const raw = section('BF16', new Uint8Array(ROWS * COLUMNS * 2).fill(0xff));
  expect(checkedHalves(raw, 'some', 0, COLUMNS)).toBe(raw);
});
