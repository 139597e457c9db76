/** `tramontane models`: what can be loaded, printed from the registries. */
import { quantTypes } from '../entry-quant.ts';
import { supportedArchitectures } from '../index.ts';
import { FORMATS, modelTables } from './modelTables.ts';
import { table } from './terminal.ts';

export function models(flags: { readonly json?: boolean; readonly markdown?: boolean }): void {
  if (flags.markdown) {
    process.stdout.write(`${modelTables()}\n`);
    return;
  }
  const architectures = supportedArchitectures();
  const types = quantTypes.map((t) => ({ name: t.name, bits: t.bitsPerWeight, block: t.blockSize, write: t.writable }));
  if (flags.json) {
    const formats = FORMATS.map(([name]) => name);
    process.stdout.write(`${JSON.stringify({ architectures, formats, quantTypes: types })}\n`);
    return;
  }
  const archRows = architectures.map((a) => [a.title, a.hf.join(', '), a.gguf.join(', ') || '-']);
  const typeRows = types.map((t) => [
    t.name,
    t.bits.toFixed(4).replace(/\.?0+$/, ''),
    String(t.block),
    t.write ? 'yes' : '-',
  ]);
  const parts = [
    table([['architecture', 'config.json', 'GGUF'], ...archRows]),
    table([['format', ''], ...FORMATS.map((f) => [...f])]),
    table([['type', 'bits per weight', 'block', 'quantize'], ...typeRows]),
  ];
  process.stdout.write(`${parts.join('\n\n')}\n`);
}
