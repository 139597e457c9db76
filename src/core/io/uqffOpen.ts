/** Opens a UQFF set by itself: the modules, without the rest of the model. */
import { localFolder } from './folder.ts';
import { isHttpUrl, type OpenOptions, openSource, type SourceInput } from './open.ts';
import { baseName, dirName } from './path.ts';
import { uqffReport } from './resolve.ts';
import { openUqff, type UqffCheckpoint } from './uqff.ts';
import { chosenSet } from './uqffFiles.ts';

/** The set of a path, with its other files; or of sources, which are the whole set. */
export async function readUqff(
  input: SourceInput | readonly SourceInput[],
  options: OpenOptions = {},
): Promise<UqffCheckpoint> {
  const { platform } = options;
  if (typeof input === 'string' && !isHttpUrl(input) && platform?.hasFiles) {
    if ((await platform.stat(input))?.kind === 'file') {
      const folder = await localFolder(platform, dirName(input));
      const choice = { name: baseName(input), stems: [] };
      const names = chosenSet(choice, folder.files, await uqffReport(folder), folder.location);
      return openUqff(names, (name) => folder.open(name));
    }
  }
  const inputs = (Array.isArray(input) ? input : [input]) as readonly SourceInput[];
  const names = inputs.map((_, i) => `file ${i + 1}`);
  return openUqff(names, (name) => openSource(inputs[names.indexOf(name)] as SourceInput, options));
}
