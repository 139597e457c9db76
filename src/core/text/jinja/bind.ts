/** Arguments of calls, matched with parameters. */
import { unfit } from './fault.ts';
import type { Args, Value } from './values.ts';

/** A required parameter, or one with its default. A name in brackets is not for callers: it takes no keyword. */
export type Param = string | readonly [name: string, fallback: Value];

/** The value of every parameter, in their order. */
export function bind(name: string, args: Args, params: readonly Param[]): Value[] {
  if (args.positional.length > params.length) {
    throw unfit(`${name}() takes at most ${params.length} arguments (${args.positional.length} given)`);
  }
  const keys = new Set(args.named.keys());
  const values = params.map((param, i) => {
    const [key, fallback] = typeof param === 'string' ? [param, undefined] : param;
    const placed = args.positional[i];
    const named = keys.delete(key) ? args.named.get(key) : undefined;
    if (placed !== undefined && named !== undefined) throw unfit(`${name}() got multiple values for argument '${key}'`);
    const value = placed !== undefined ? placed : named !== undefined ? named : fallback;
    if (value === undefined) throw unfit(`${name}() missing a required argument: '${key}'`);
    return value;
  });
  for (const key of keys) throw unfit(`${name}() got an unexpected keyword argument '${key}'`);
  return values;
}
