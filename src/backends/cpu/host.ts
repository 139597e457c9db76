import type { Tensor } from '../../core/tensor.ts';
import type { Kernel } from './kernel.ts';

/**
 * What code that turns ops into commands works with. Per op: take scratch and addresses first, then
 *
 *     const at = host.begin(entry);
 *     host.words[at + kernel.at.x] = host.address(x);
 *     host.floats[at + kernel.at.eps] = eps;
 *
 * and nothing else between `begin` and the last field. Nothing here allocates in JavaScript.
 */
export interface OpHost {
  readonly threads: number;
  /** Number of a kernel, for `begin`: look it up once, when the ops are made. */
  entry(kernel: Kernel): number;
  /** Makes a kernel callable that is called by another one, not by a command of its own. */
  require(entry: number): void;
  /** Starts a command and returns the word index of its record. `independent`: no barrier behind it. */
  begin(entry: number, independent?: boolean): number;
  readonly words: Int32Array;
  readonly floats: Float32Array;
  /** Byte address of the first element. */
  address(t: Tensor): number;
  /** Memory that ops may use until the scope ends (outside of scopes: until the next `flush`). */
  scratch(bytes: number): number;
  /** Memory until `release`; the main memory has number 0. */
  allocate(bytes: number, what: string, memory?: number): number;
  /** Returns memory once everything enqueued has run. */
  release(address: number, memory?: number): void;
  /** Where the arguments of a command go whose kernel works on another memory. */
  wordsOf(memory: number): Int32Array;
}
