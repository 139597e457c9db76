/** The paged cache on the device, and attention over it and over plain keys. */
import type { OptionalOps } from '../../../core/backend.ts';
import type { OpHost } from '../host.ts';
import { cacheOps } from './cache.ts';
import { denseOps } from './dense.ts';
import { pagedOps } from './paged.ts';
import { storeOps } from './store.ts';

type AttentionOps = Pick<OptionalOps, 'createKvCache' | 'copyKvBlock' | 'qkvStore' | 'attention' | 'denseAttention'>;

export const attentionOps = (host: OpHost): AttentionOps => ({
  ...cacheOps(host),
  ...storeOps(host),
  ...pagedOps(host),
  ...denseOps(host),
});
