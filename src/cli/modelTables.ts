/** The tables of the README: what can be loaded, from the registries. */
import { quantTypes } from '../entry-quant.ts';
import { supportedArchitectures } from '../index.ts';

/** File formats, and what of them is read. */
export const FORMATS = [
  ['GGUF', 'version 2 and 3, single or split'],
  ['UQFF', 'version 1.0 to 1.2, with the folder it lies in; sets of several files'],
  ['safetensors', 'single or sharded, in a Hugging Face folder'],
  [
    'safetensors, quantized',
    'GPTQ, AWQ (GEMM), FP8, MXFP4, bitsandbytes, compressed-tensors, HQQ, MLX: kept as they are, not expanded',
  ],
] as const;

/** Storage types that belong together, in the order they are listed in. */
const FAMILIES: readonly (readonly [title: string, name: RegExp])[] = [
  ['floats', /^B?F\d+$/],
  ['8-bit floats', /^F8_/],
  ['8-bit floats under scales', /^F8/],
  ['integers', /^([IU]\d+|BOOL)$/],
  ['blocks of 32', /^Q[2-8]_[01]$/],
  ['K quants', /^Q\d_K$/],
  ['I quants', /^IQ/],
  ['ternary and binary', /^(TQ|Q1_)/],
  ['4-bit floats', /(FP|NF)4$/],
  ['affine groups', /^AFQ/],
  ['half-quadratic', /^HQQ/],
];

/** Architectures, file formats and storage types as Markdown. */
export function modelTables(): string {
  const names = (list: readonly string[]) => list.map((name) => `\`${name}\``).join(', ') || '–';
  const left = new Set(quantTypes);
  const families = FAMILIES.flatMap(([title, pattern]) => {
    const types = [...left].filter((t) => pattern.test(t.name));
    for (const t of types) left.delete(t);
    return types.length > 0 ? [{ title, types }] : [];
  });
  if (left.size > 0) families.push({ title: 'others', types: [...left] });
  const bits = (x: number) => x.toFixed(4).replace(/\.?0+$/, '');
  return [
    table(
      ['architecture', '`architectures` of config.json', '`general.architecture` of GGUF'],
      supportedArchitectures().map((a) => [a.title, names(a.hf), names(a.gguf)]),
    ),
    table(['file format', 'read'], FORMATS),
    table(
      ['storage types', 'read (bits per weight)', 'written by `quantize`'],
      families.map(({ title, types }) => [
        title,
        types.map((t) => `${t.name} (${bits(t.bitsPerWeight)})`).join(', '),
        types
          .filter((t) => t.writable)
          .map((t) => t.name)
          .join(', ') || '–',
      ]),
    ),
  ].join('\n\n');
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), `|${head.map(() => '---|').join('')}`, ...rows.map(line)].join('\n');
}
