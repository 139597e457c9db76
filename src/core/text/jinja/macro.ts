/** Arguments of macros. */
import type { Expr, MacroBody } from './ast.ts';
import { unfit } from './fault.ts';
import type { Scope } from './scope.ts';
import type { Args, Value } from './values.ts';
import { Dict, Tuple, Undefined } from './values.ts';

/** Gives a macro's parameters their values; defaults see the parameters before them. */
export function bindMacro(macro: MacroBody, args: Args, scope: Scope, evaluate: (expr: Expr) => Value): void {
  const { params, defaults } = macro;
  const named = new Map(args.named);
  const missing: number[] = [];
  params.forEach((param, i) => {
    let value = args.positional[i];
    if (value === undefined) {
      value = named.get(param);
      named.delete(param);
    }
    if (value === undefined) missing.push(i);
    scope.set(param, value === undefined ? new Undefined(`parameter '${param}' was not provided`) : value);
  });
  if (macro.caller) {
    scope.set('caller', named.get('caller') ?? new Undefined('No caller defined'));
    named.delete('caller');
  }
  bindRest(macro, args, named, scope);
  for (const i of missing) {
    const fallback = defaults[i - (params.length - defaults.length)];
    if (fallback) scope.set(params[i] as string, evaluate(fallback));
  }
}

/** What no parameter takes goes to `kwargs` and `varargs`, if the macro reads them. */
function bindRest(macro: MacroBody, args: Args, named: ReadonlyMap<string, Value>, scope: Scope): void {
  const name = macro.name === undefined ? 'None' : `'${macro.name}'`;
  if (macro.kwargs) {
    const rest = new Dict();
    for (const [key, value] of named) rest.setText(key, value);
    scope.set('kwargs', rest);
  } else {
    for (const key of named.keys()) throw unfit(`macro ${name} takes no keyword argument '${key}'`);
  }
  const count = macro.params.length;
  if (macro.varargs) scope.set('varargs', new Tuple(args.positional.slice(count)));
  else if (args.positional.length > count) throw unfit(`macro ${name} takes not more than ${count} argument(s)`);
}

/** What templates can see of a macro. */
export function macroAttribute(macro: MacroBody, name: string): Value | undefined {
  switch (name) {
    case 'name':
      return macro.name ?? null;
    case 'arguments':
      return new Tuple(macro.params);
    case 'catch_kwargs':
      return macro.kwargs;
    case 'catch_varargs':
      return macro.varargs;
    case 'caller':
      return macro.caller || macro.params.includes('caller');
    case 'explicit_caller':
      return macro.params.includes('caller');
    default:
      return undefined;
  }
}
