/** Models that stay in the browser's storage (the origin private file system) between visits. */
import type { KeptModel } from './protocol.ts';

/** The folder given to `hfCachePath`. */
export const KEPT = 'models';

const PREFIX = 'models--';

type Folder = FileSystemDirectoryHandle & AsyncIterable<[string, FileSystemHandle]>;

async function folder(): Promise<Folder | undefined> {
  try {
    const root = await navigator.storage.getDirectory();
    return (await root.getDirectoryHandle(KEPT)) as Folder;
  } catch {
    return undefined; // nothing was kept yet, or this browser keeps nothing
  }
}

export async function kept(): Promise<readonly KeptModel[]> {
  const models: KeptModel[] = [];
  for await (const [name, handle] of (await folder()) ?? []) {
    if (handle.kind !== 'directory' || !name.startsWith(PREFIX)) continue;
    const repo = name.slice(PREFIX.length).replace('--', '/');
    models.push({ repo, bytes: await sizeOf(handle as Folder) });
  }
  return models.sort((a, b) => a.repo.localeCompare(b.repo));
}

export async function forget(repo: string): Promise<undefined> {
  await (await folder())?.removeEntry(`${PREFIX}${repo.replace('/', '--')}`, { recursive: true });
}

async function sizeOf(within: Folder): Promise<number> {
  let bytes = 0;
  for await (const [, handle] of within) {
    bytes +=
      handle.kind === 'directory'
        ? await sizeOf(handle as Folder)
        : (await (handle as FileSystemFileHandle).getFile()).size;
  }
  return bytes;
}
