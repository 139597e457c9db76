/** Values of expressions. */
import { attributeOf, itemOf } from './access.ts';
import type { CallArgs, CompareOperator, Expr } from './ast.ts';
import { equal, keyOf, order, refuseUndefined, truth } from './compare.ts';
import { Fault, unfit } from './fault.ts';
import { binary, escaped, signed } from './operators.ts';
import type { Runtime } from './runtime.ts';
import type { Scope } from './scope.ts';
import { contains, joinTexts, listOf, slice } from './sequence.ts';
import { str } from './show.ts';
import type { Args, Value } from './values.ts';
import { Dict, isList, Markup, NO_ARGS, Tuple, textOf, typeName, Undefined } from './values.ts';

export function evaluate(expr: Expr, scope: Scope, runtime: Runtime): Value {
  const { budget } = runtime;
  budget.step();
  switch (expr.kind) {
    case 'const':
      return expr.value;
    case 'name':
      return scope.get(expr.name);
    case 'attribute':
      return attributeOf(evaluate(expr.of, scope, runtime), expr.name, budget);
    case 'item':
      return itemOf(evaluate(expr.of, scope, runtime), evaluate(expr.key, scope, runtime), budget);
    case 'slice': {
      const of = evaluate(expr.of, scope, runtime);
      const [start, stop, step] = [expr.start, expr.stop, expr.step].map((e) =>
        e ? evaluate(e, scope, runtime) : null,
      );
      return slice(of, start ?? null, stop ?? null, step ?? null, budget);
    }
    case 'call':
      return call(evaluate(expr.of, scope, runtime), argsOf(expr.args, scope, runtime));
    case 'filter':
      return applyFilter(expr.name, expr.of ? evaluate(expr.of, scope, runtime) : '', expr.args, scope, runtime);
    case 'test': {
      const test = runtime.tests.get(expr.name);
      if (!test) throw new Fault(`No test named '${expr.name}' found.`);
      return test(runtime, evaluate(expr.of, scope, runtime), argsOf(expr.args, scope, runtime));
    }
    case 'cond':
      if (truth(evaluate(expr.test, scope, runtime))) return evaluate(expr.chosen, scope, runtime);
      if (expr.otherwise) return evaluate(expr.otherwise, scope, runtime);
      return new Undefined('the inline if-expression evaluated to false and no else section was defined.');
    case 'and': {
      const left = evaluate(expr.left, scope, runtime);
      return truth(left) ? evaluate(expr.right, scope, runtime) : left;
    }
    case 'or': {
      const left = evaluate(expr.left, scope, runtime);
      return truth(left) ? left : evaluate(expr.right, scope, runtime);
    }
    case 'not':
      return !truth(evaluate(expr.of, scope, runtime));
    case 'sign':
      return signed(expr.operator, evaluate(expr.of, scope, runtime));
    case 'binary':
      return binary(expr.operator, evaluate(expr.left, scope, runtime), evaluate(expr.right, scope, runtime), budget);
    case 'concat':
      return concat(
        expr.parts.map((part) => evaluate(part, scope, runtime)),
        runtime,
      );
    case 'compare':
      return compare(expr.first, expr.rest, scope, runtime);
    case 'list':
      return expr.items.map((item) => evaluate(item, scope, runtime));
    case 'tuple':
      return new Tuple(expr.items.map((item) => evaluate(item, scope, runtime)));
    case 'dict':
      return dict(expr.pairs, scope, runtime);
    default:
      return expr satisfies never;
  }
}

/** `~` */
function concat(values: readonly Value[], { budget, autoescape }: Runtime): Value {
  const safe = autoescape && values.some((value) => value instanceof Markup);
  const show = safe ? escaped : str;
  const text = joinTexts(
    values.map((value) => show(value, budget)),
    '',
    budget,
  );
  return safe ? new Markup(text) : text;
}

function compare(
  first: Expr,
  rest: readonly (readonly [CompareOperator, Expr])[],
  scope: Scope,
  runtime: Runtime,
): boolean {
  let left = evaluate(first, scope, runtime);
  for (const [operator, expr] of rest) {
    const right = evaluate(expr, scope, runtime);
    if (!holds(operator, left, right, runtime)) return false;
    left = right;
  }
  return true;
}

function holds(operator: CompareOperator, left: Value, right: Value, { budget }: Runtime): boolean {
  switch (operator) {
    case '==':
      return equal(left, right, budget);
    case '!=':
      return !equal(left, right, budget);
    case 'in':
      return contains(right, left, budget);
    case 'not in':
      return !contains(right, left, budget);
    case '<':
      return order(left, right, operator, budget) < 0;
    case '<=':
      return order(left, right, operator, budget) <= 0;
    case '>':
      return order(left, right, operator, budget) > 0;
    case '>=':
      return order(left, right, operator, budget) >= 0;
    default:
      return operator satisfies never;
  }
}

function dict(pairs: readonly (readonly [Expr, Expr])[], scope: Scope, runtime: Runtime): Dict {
  const made = new Dict();
  for (const [keyExpr, valueExpr] of pairs) {
    const key = evaluate(keyExpr, scope, runtime);
    made.set(keyOf(key, runtime.budget), key, evaluate(valueExpr, scope, runtime));
  }
  return made;
}

/** The arguments of a call. */
export function argsOf(args: CallArgs, scope: Scope, runtime: Runtime): Args {
  if (args.positional.length === 0 && args.named.length === 0 && !args.spread && !args.spreadNamed) return NO_ARGS;
  const positional = args.positional.map((arg) => evaluate(arg, scope, runtime));
  const named = new Map<string, Value>();
  for (const [name, value] of args.named) named.set(name, evaluate(value, scope, runtime));
  if (args.spread) {
    const rest = listOf(evaluate(args.spread, scope, runtime), runtime.budget);
    runtime.budget.items(rest.length);
    for (const item of rest) positional.push(item);
  }
  if (args.spreadNamed) {
    const rest = evaluate(args.spreadNamed, scope, runtime);
    if (!(rest instanceof Dict)) throw unfit(`argument after ** must be a mapping, not ${typeName(rest)}`);
    for (const [key, value] of rest.items()) {
      const name = textOf(key);
      if (name === undefined) throw unfit('keywords must be strings');
      if (named.has(name)) throw unfit(`got multiple values for keyword argument '${name}'`);
      named.set(name, value);
    }
  }
  return { positional, named };
}

/** Calls a value. */
export function call(callee: Value, args: Args): Value {
  refuseUndefined(callee);
  if (typeof callee === 'object' && callee !== null && !isList(callee) && callee.kind === 'thing' && callee.call) {
    return callee.call(args);
  }
  throw unfit(`'${typeName(callee)}' object is not callable`);
}

export function applyFilter(name: string, value: Value, args: CallArgs, scope: Scope, runtime: Runtime): Value {
  const filter = runtime.filters.get(name);
  if (!filter) throw new Fault(`No filter named '${name}' found.`);
  return filter(runtime, value, argsOf(args, scope, runtime));
}
