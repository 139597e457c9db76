/** Models of the fixtures with heads for prediction, as checkpoints of two files. */
import { copyFileSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readSafetensors } from '../../src/core/io/safetensors.ts';

export const fixture = (path: string) => fileURLToPath(new URL(`../fixtures/${path}`, import.meta.url));
/** A folder with the model, to be removed by the caller. */
export async function headedModel(name: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'tramontane-mtp-'));
  const config = JSON.parse(readFileSync(fixture(`models/${name}/config.json`), 'utf8')) as object;
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, num_nextn_predict_layers: 1 }));
  const weight_map: Record<string, string> = {};
  for (const [file, from] of [
    ['model-00001-of-00002.safetensors', `models/${name}/model.safetensors`],
    ['model-00002-of-00002.safetensors', `mtp/${name}/mtp.safetensors`],
  ] as const) {
    copyFileSync(fixture(from), join(folder, file));
    for (const tensor of (await readSafetensors(readFileSync(fixture(from)))).tensors.keys()) weight_map[tensor] = file;
  }
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));
  return folder;
}
