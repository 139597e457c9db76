/** What filters, tests and functions know of the rendering they are part of. */
import type { Budget } from './fault.ts';
import type { Args, Value } from './values.ts';

export interface Runtime {
  readonly budget: Budget;
  /** Whether output is escaped for HTML here. */
  readonly autoescape: boolean;
  readonly filters: ReadonlyMap<string, Filter>;
  readonly tests: ReadonlyMap<string, Test>;
}

export type Filter = (runtime: Runtime, value: Value, args: Args) => Value;
export type Test = (runtime: Runtime, value: Value, args: Args) => boolean;
