/** The README.md of a folder of UQFF files. */
import type { UqffReport } from './core/io/uqffReport.ts';

/** A model card for the hub: what the files are, and how to run them. */
export function modelCard(
  name: string,
  { base_model: base, repo_id: repo, uqff_version, outputs }: UqffReport,
): string {
  const of = base ?? name;
  const front = base === undefined ? ['tags: [uqff]'] : [`base_model: ${JSON.stringify(base)}`, 'tags: [uqff]'];
  const run = repo ?? 'FOLDER';
  const rows = outputs.map(({ quant, shards, layers, actual_counts, fallback_count }) => {
    const types = Object.entries(actual_counts).map(([type, n]) => `${type} × ${n}`);
    const other = fallback_count > 0 ? `, ${fallback_count} of another type than asked for` : '';
    return `| ${quant} | \`${shards[0]}\` | ${shards.length} | ${layers} (${types.join(', ')}${other}) |`;
  });
  return [
    ...['---', ...front, '---', '', `# ${of}, quantized`, ''],
    `Weights of ${of} in UQFF ${uqff_version}.`,
    '',
    ...['| type | first file | files | matrices |', '|---|---|---|---|', ...rows, ''],
    '```sh',
    `tramontane run -m ${run} --from-uqff ${outputs[0]?.quant}`,
    '```',
    '',
  ].join('\n');
}
