/** Attributes named by a path, as `attribute=` of filters takes them. */
import { itemOf } from './access.ts';
import type { Budget } from './fault.ts';
import type { Value } from './values.ts';
import { textOf, Undefined } from './values.ts';

export type Getter = (item: Value) => Value;

/** Text compares without regard to case. */
export function ignoreCase(value: Value): Value {
  return textOf(value)?.toLowerCase() ?? value;
}

/** Steps along `a.b.0`; every missing one yields `fallback`, unless that is None. */
export function attributeGetter(attribute: Value, budget: Budget, fallback: Value = null): Getter {
  const path = pathOf(attribute);
  return (item) => {
    let value = item;
    for (const part of path) {
      value = itemOf(value, part, budget);
      if (fallback !== null && value instanceof Undefined) value = fallback;
    }
    return value;
  };
}

/** The values of several attributes, named with commas between them. */
export function multiGetter(attribute: Value, caseSensitive: boolean, budget: Budget): (item: Value) => Value[] {
  const text = textOf(attribute);
  const getters = (text?.split(',') ?? [attribute]).map((part) => attributeGetter(part, budget));
  return (item) => getters.map((get) => (caseSensitive ? get(item) : ignoreCase(get(item))));
}

function pathOf(attribute: Value): Value[] {
  if (attribute === null) return [];
  const text = textOf(attribute);
  if (text === undefined) return [attribute];
  return text.split('.').map((part) => (/^\d+$/.test(part) ? Number(part) : part));
}
