/** Attributes and items of values, as far as the sandbox lets templates see them. */
import { keyOf, refuseUndefined } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault } from './fault.ts';
import { changes, objectAttribute } from './objectMethods.ts';
import { itemAt } from './sequence.ts';
import { repr } from './show.ts';
import { textAttribute } from './textMethods.ts';
import type { Value } from './values.ts';
import { Dict, isList, Namespace, textOf, typeName, Undefined } from './values.ts';

/** What every object of Python has, out of reach for templates. */
const INTERNAL =
  /^__(class|delattr|dir|doc|eq|format|ge|getattribute|getstate|gt|hash|init|init_subclass|le|lt|ne|new|reduce|reduce_ex|repr|setattr|sizeof|str|subclasshook)__$/;

/** A type as error messages call it. */
function described(value: Value): string {
  return value === null ? 'None' : `${typeName(value)} object`;
}

function without(value: Value, name: Value, budget: Budget): Undefined {
  return new Undefined(() =>
    typeof name === 'string'
      ? `'${described(value)}' has no attribute '${name}'`
      : `${described(value)} has no element ${repr(name, budget)}`,
  );
}

/** What `.name` finds besides items; `undefined` where there is none. */
function attribute(value: Value, name: string, budget: Budget): Value | undefined {
  if (INTERNAL.test(name) || changes(value, name)) {
    return new Undefined(`access to attribute '${name}' of '${typeName(value)}' object is unsafe.`);
  }
  if (textOf(value) !== undefined) return textAttribute(value, name, budget);
  if (value instanceof Namespace) return value.values.get(name);
  if (typeof value === 'object' && value !== null && !isList(value) && value.kind === 'thing')
    return value.attribute?.(name);
  return objectAttribute(value, name, budget);
}

/** `value[key]` without a look at attributes; `undefined` where Python raises an error that means "not there". */
function item(value: Value, key: Value, budget: Budget): Value | undefined {
  try {
    return value instanceof Dict ? value.get(keyOf(key, budget)) : itemAt(value, key, budget);
  } catch (error) {
    if (error instanceof Fault && error.recoverable) return undefined;
    throw error;
  }
}

/** `value.name`: an attribute, else an item. */
export function attributeOf(value: Value, name: string, budget: Budget): Value {
  refuseUndefined(value);
  const found = attribute(value, name, budget);
  if (found !== undefined) return found;
  const other = value instanceof Dict ? value.get(name) : undefined;
  return other === undefined ? without(value, name, budget) : other;
}

/** `value[key]`: an item, else an attribute. */
export function itemOf(value: Value, key: Value, budget: Budget): Value {
  refuseUndefined(value);
  const found = item(value, key, budget);
  if (found !== undefined) return found;
  const name = textOf(key);
  const other = name === undefined ? undefined : attribute(value, name, budget);
  return other === undefined ? without(value, key, budget) : other;
}

/** Whether an object has an attribute of that name, items aside. */
export function hasAttribute(value: Value, name: string, budget: Budget): boolean {
  return attribute(value, name, budget) !== undefined;
}
