/** `tramontane models`: what can be loaded, printed from the registries. */
import { supported } from '../models/registry.ts';
import { quantTypes } from '../quant/index.ts';
import { table } from './terminal.ts';

const FORMATS = [
  ['GGUF', 'version 2 and 3, single or split'],
  ['safetensors', 'single or sharded, in a Hugging Face folder'],
] as const;

export function models(flags: { readonly json?: boolean }): void {
  const architectures = supported();
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
