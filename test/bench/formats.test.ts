/** The table of storage types, and the document it stands in. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { matrixOf, measureSpeed, storedErrors } from '../../bench/formatMeasure.ts';
import { entries, formatTable, type Measured, withTable } from '../../bench/formatTable.ts';
import { createBackend } from '../../src/backend.ts';
import type { Backend } from '../../src/core/backend.ts';
import { quantTypes } from '../../src/quant/index.ts';

const folder = fileURLToPath(new URL('../../src/quant/', import.meta.url));
const document = readFileSync(`${folder}README.md`, 'utf8');
const COLUMNS = 256;

describe('src/quant/README.md', () => {
  it('has every type of the registry in its table, and what checkpoints are read as', () => {
    const [, table = ''] = /<!-- formats -->\n([\s\S]*)<!-- \/formats -->/.exec(document) ?? [];
    const names = table
      .split('\n')
      .filter((line) => line.startsWith('| '))
      .map((line) => line.slice(2, line.indexOf(' |')))
      .slice(1);
    expect(names).toEqual(entries(4096).map((e) => e.name));
    expect(names).toEqual(expect.arrayContaining(quantTypes.map((t) => t.name)));
    expect(table).toContain('Measured on:');
  });

  it('names every file and folder, and none that is not there', () => {
    const named = [...document.matchAll(/`([\w/]+(?:\.ts|\/))`/g)].map((m) => m[1] as string);
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (entry.name !== 'README.md') expect(named).toContain(entry.isDirectory() ? `${entry.name}/` : entry.name);
    }
    const root = fileURLToPath(new URL('../../', import.meta.url));
    const gone = named.filter((name) => !existsSync(folder + name) && !existsSync(`${folder}isq/${name}`));
    expect(gone.filter((name) => !existsSync(root + name))).toEqual([]);
  });
});

describe('rows of the table', () => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await createBackend('cpu', { threads: 1 });
  });
  afterAll(() => backend.dispose());
  const all = entries(COLUMNS);
  const entryOf = (name: string) => all.find((e) => e.name === name)!;

  it('are a matrix for every type, with errors where it is written', () => {
    for (const entry of all) {
      const { values } = matrixOf(entry, COLUMNS);
      expect(values.every(Number.isFinite), entry.name).toBe(true);
      expect(new Set(values).size, entry.name).toBeGreaterThan(1);
      const { weightError, productError } = storedErrors(entry, COLUMNS);
      expect(weightError !== undefined, entry.name).toBe(entry.writable);
      if (weightError !== undefined) expect(weightError, entry.name).toBeLessThan(2);
      if (productError !== undefined) expect(productError, entry.name).toBeLessThan(3);
    }
    expect(storedErrors(entryOf('Q4_0'), COLUMNS).weightError).toBeCloseTo(0.086, 2);
    expect(storedErrors(entryOf('F32'), COLUMNS)).toEqual({ weightError: 0, productError: 0 });
  });

  it.each(['F16', 'Q4_0', 'Q6_K', 'HQQ4', 'GPTQ: 4 bits, act-order'])('%s is measured', async (name) => {
    const before = backend.memory().persistent;
    const speed = await measureSpeed(backend, matrixOf(entryOf(name), COLUMNS), { rounds: 1, streamBytes: 1e6 });
    expect(Math.min(speed.gbps, speed.gflops)).toBeGreaterThan(0);
    expect(speed.productError).toBeLessThan(0.02);
    expect(speed.heldBits).toBeGreaterThan(4);
    expect(speed.heldBits).toBeLessThan(20);
    expect(backend.memory().persistent).toBe(before);
  });

  it('come out as Markdown', () => {
    const entry = { name: 'X', bits: 4.5, writable: true };
    const rows: Measured[] = [
      {
        ...{ entry, weightError: 0.0123, productError: undefined },
        speeds: [{ heldBits: 5, gbps: 1.26, gflops: 20, productError: 0 }, 'not here'],
      },
    ];
    const table = formatTable(rows, ['a', 'b']);
    expect(table.split('\n').at(-1)).toBe('| X | 4.5 | 1.2 % | – | 5 | 1.3 | 20.0 | 0 | – | – | – | – |');
    expect(withTable('x\n<!-- formats -->\nold\n<!-- /formats -->\ny', 'new')).toBe(
      'x\n<!-- formats -->\nnew\n<!-- /formats -->\ny',
    );
    expect(() => withTable('x', 'new')).toThrow(/formats/);
  });
});
