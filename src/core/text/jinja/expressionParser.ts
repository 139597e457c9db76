/** Expressions, by rising precedence. */
import type { CallArgs, CompareOperator, Expr, FilterExpr } from './ast.ts';
import type { Cursor } from './cursor.ts';
import type { BinaryOperator } from './operators.ts';

const NO_ARGS: CallArgs = { positional: [], named: [], spread: undefined, spreadNamed: undefined };

/** An expression; `a if b else c` only where it may stand. */
export function parseExpression(c: Cursor, conditional = true): Expr {
  return c.nested(() => (conditional ? parseConditional(c) : parseOperators(c, OR)));
}

/** One expression, or several with commas as a tuple. */
export function parseTuple(c: Cursor, conditional = true, endsAt: string | undefined = undefined): Expr {
  return tupleUntil(c, conditional, () => c.token.type === 'end' || (endsAt !== undefined && c.isName(endsAt)), false);
}

function tupleUntil(c: Cursor, conditional: boolean, ended: () => boolean, mayBeEmpty: boolean): Expr {
  const items: Expr[] = [];
  let tuple = false;
  while (!ended() && !c.isMark(')')) {
    items.push(parseExpression(c, conditional));
    if (!c.skipMark(',')) break;
    tuple = true;
  }
  const [first] = items;
  if (!tuple && first !== undefined) return first;
  if (first === undefined && !mayBeEmpty) c.fail(`expected an expression, got ${c.token.text}`);
  return { kind: 'tuple', items };
}

function parseConditional(c: Cursor): Expr {
  const unknown = c.unknownCount;
  let expr = parseOperators(c, OR);
  while (c.skipName('if')) {
    const test = parseOperators(c, OR);
    const otherwise = c.skipName('else') ? c.nested(() => parseConditional(c)) : undefined;
    expr = { kind: 'cond', test, chosen: expr, otherwise };
    c.forgive(unknown);
  }
  return expr;
}

/** What stands between two expressions. */
interface Operator {
  readonly level: number;
  readonly text: string;
}

const [OR, AND, NOT, COMPARE, SUM, CONCAT, PRODUCT, POWER] = [1, 2, 3, 4, 5, 6, 7, 8];

function operators(level: number, texts: string): [string, Operator][] {
  return texts.split(' ').map((text) => [text, { level, text }]);
}

const MARK_OPERATORS: ReadonlyMap<string, Operator> = new Map([
  ...operators(COMPARE, '== != < <= > >='),
  ...operators(SUM, '+ -'),
  ...operators(CONCAT, '~'),
  ...operators(PRODUCT, '* / // %'),
  ...operators(POWER, '**'),
]);
const NAME_OPERATORS: ReadonlyMap<string, Operator> = new Map([
  ...operators(OR, 'or'),
  ...operators(AND, 'and'),
  ...operators(COMPARE, 'in'),
]);
const NOT_IN: Operator = { level: COMPARE, text: 'not in' };

/** The operator that comes next. */
function operatorAt(c: Cursor): Operator | undefined {
  const { type, text } = c.token;
  if (type === 'mark') return MARK_OPERATORS.get(text);
  if (type !== 'name') return undefined;
  return text === 'not' && c.ahead.type === 'name' && c.ahead.text === 'in' ? NOT_IN : NAME_OPERATORS.get(text);
}

function skipOperator(c: Cursor, operator: Operator): void {
  c.next();
  if (operator === NOT_IN) c.next();
}

/** Operators that bind at least as close as `lowest`, from left to right. */
function parseOperators(c: Cursor, lowest: number): Expr {
  const negated = lowest <= NOT && c.skipName('not');
  let left: Expr = negated ? { kind: 'not', of: c.nested(() => parseOperators(c, NOT)) } : parseUnary(c, true);
  for (let operator = operatorAt(c); operator && operator.level >= lowest; operator = operatorAt(c)) {
    left = parseRight(c, left, operator);
  }
  return left;
}

/** An operator with what stands behind it. */
function parseRight(c: Cursor, left: Expr, operator: Operator): Expr {
  const { level, text } = operator;
  if (level === COMPARE) return parseCompare(c, left);
  if (level === CONCAT) return parseConcat(c, left);
  skipOperator(c, operator);
  const right = level === POWER ? parseUnary(c, true) : parseOperators(c, level + 1);
  if (level === OR || level === AND) return { kind: level === OR ? 'or' : 'and', left, right };
  return { kind: 'binary', operator: text as BinaryOperator, left, right };
}

/** `a < b <= c` compares each with the next. */
function parseCompare(c: Cursor, first: Expr): Expr {
  const rest: [CompareOperator, Expr][] = [];
  for (let operator = operatorAt(c); operator?.level === COMPARE; operator = operatorAt(c)) {
    skipOperator(c, operator);
    rest.push([operator.text as CompareOperator, parseOperators(c, COMPARE + 1)]);
  }
  return { kind: 'compare', first, rest };
}

function parseConcat(c: Cursor, first: Expr): Expr {
  const parts = [first];
  while (c.skipMark('~')) parts.push(parseOperators(c, CONCAT + 1));
  return { kind: 'concat', parts };
}

/** Signs bind closer than filters, but not than what is called or looked up. */
function parseUnary(c: Cursor, filters: boolean): Expr {
  const sign = c.skipMark('-') ? '-' : c.skipMark('+') ? '+' : undefined;
  const base: Expr = sign
    ? { kind: 'sign', operator: sign, of: c.nested(() => parseUnary(c, false)) }
    : parsePrimary(c);
  const expr = parsePostfix(c, base);
  return filters ? parseFilters(c, expr) : expr;
}

function parsePrimary(c: Cursor): Expr {
  const token = c.token;
  switch (token.type) {
    case 'name':
      c.next();
      return named(c, token.text);
    case 'string': {
      let text = '';
      while (c.token.type === 'string') text += c.next().value as string;
      return { kind: 'const', value: text };
    }
    case 'integer':
    case 'float':
      return { kind: 'const', value: c.next().value };
    case 'mark':
      if (token.text === '(') return parseParentheses(c);
      if (token.text === '[') return parseList(c);
      if (token.text === '{') return parseDict(c);
  }
  return c.fail(`expected an expression, got ${token.text}`);
}

function named(c: Cursor, name: string): Expr {
  switch (name) {
    case 'true':
    case 'True':
      return { kind: 'const', value: true };
    case 'false':
    case 'False':
      return { kind: 'const', value: false };
    case 'none':
    case 'None':
      return { kind: 'const', value: null };
  }
  c.load(name);
  return { kind: 'name', name };
}

function parseParentheses(c: Cursor): Expr {
  c.next();
  const expr = tupleUntil(c, true, () => c.token.type === 'end', true);
  c.expectMark(')');
  return expr;
}

function parseList(c: Cursor): Expr {
  const items: Expr[] = [];
  c.next();
  while (!c.isMark(']')) {
    items.push(parseExpression(c));
    if (!c.skipMark(',')) break;
  }
  c.expectMark(']');
  return { kind: 'list', items };
}

function parseDict(c: Cursor): Expr {
  const pairs: [Expr, Expr][] = [];
  c.next();
  while (!c.isMark('}')) {
    const key = parseExpression(c);
    c.expectMark(':');
    pairs.push([key, parseExpression(c)]);
    if (!c.skipMark(',')) break;
  }
  c.expectMark('}');
  return { kind: 'dict', pairs };
}

function parsePostfix(c: Cursor, base: Expr): Expr {
  let expr = base;
  while (c.token.type === 'mark') {
    if (c.skipMark('.')) expr = parseMember(c, expr);
    else if (c.skipMark('[')) expr = parseSubscript(c, expr);
    else if (c.isMark('(')) expr = { kind: 'call', of: expr, args: parseCallArgs(c) };
    else break;
  }
  return expr;
}

function parseMember(c: Cursor, of: Expr): Expr {
  const token = c.next();
  if (token.type === 'name') return { kind: 'attribute', of, name: token.text };
  if (token.type !== 'integer') c.fail(`expected a name or number, got ${token.text}`, token.line);
  return { kind: 'item', of, key: { kind: 'const', value: token.value } };
}

function parseSubscript(c: Cursor, of: Expr): Expr {
  const part = (): Expr | undefined => (c.isMark(':') || c.isMark(']') ? undefined : parseExpression(c));
  const start = part();
  if (c.isMark(':')) {
    c.next();
    const stop = part();
    const step = c.skipMark(':') ? part() : undefined;
    c.expectMark(']');
    return { kind: 'slice', of, start, stop, step };
  }
  const items = start === undefined ? [] : [start];
  while (c.skipMark(',')) items.push(parseExpression(c));
  c.expectMark(']');
  const [key] = items;
  return { kind: 'item', of, key: items.length === 1 && key ? key : { kind: 'tuple', items } };
}

/** Filters, tests, and calls of what they yield. */
function parseFilters(c: Cursor, base: Expr): Expr {
  let expr = base;
  for (;;) {
    if (c.isMark('|')) expr = parseFilter(c, expr) ?? expr;
    else if (c.isName('is')) expr = parseTest(c, expr);
    else if (c.isMark('(')) expr = { kind: 'call', of: expr, args: parseCallArgs(c) };
    else return expr;
  }
}

/** A row of filters. `inline` is the first one without a bar before it; without `of`, the text of a block is filtered. */
export function parseFilter(c: Cursor, of: Expr | undefined, inline = false): FilterExpr | undefined {
  let expr = of;
  let filter: FilterExpr | undefined;
  for (let first = inline; first || c.skipMark('|'); first = false) {
    const name = dottedName(c);
    c.noteFilter(name);
    const args = c.isMark('(') ? parseCallArgs(c) : NO_ARGS;
    filter = { kind: 'filter', of: expr, name, args };
    expr = filter;
  }
  return filter;
}

function dottedName(c: Cursor): string {
  let name = c.expectName();
  while (c.skipMark('.')) name += `.${c.expectName()}`;
  return name;
}

function parseTest(c: Cursor, of: Expr): Expr {
  c.next();
  const negated = c.skipName('not');
  const name = dottedName(c);
  c.noteTest(name);
  const test: Expr = { kind: 'test', of, name, args: parseTestArgs(c) };
  return negated ? { kind: 'not', of: test } : test;
}

/** One argument of a test needs no brackets. */
function parseTestArgs(c: Cursor): CallArgs {
  if (c.isMark('(')) return parseCallArgs(c);
  const { type } = c.token;
  const begins = type === 'name' || type === 'string' || type === 'integer' || type === 'float';
  if ((!begins && !c.isMark('[') && !c.isMark('{')) || c.isAny(['else', 'or', 'and'])) return NO_ARGS;
  if (c.isName('is')) c.fail('expected one test, got several in a row; combine them with "and"');
  return { ...NO_ARGS, positional: [parsePostfix(c, parsePrimary(c))] };
}

export function parseCallArgs(c: Cursor): CallArgs {
  const positional: Expr[] = [];
  const named: [string, Expr][] = [];
  let spread: Expr | undefined;
  let spreadNamed: Expr | undefined;
  const inOrder = (valid: boolean): void => {
    if (!valid) c.fail('expected positional arguments before named ones, and each name once');
  };
  c.expectMark('(');
  while (!c.isMark(')')) {
    if (c.skipMark('*')) {
      inOrder(!spread && !spreadNamed);
      spread = parseExpression(c);
    } else if (c.skipMark('**')) {
      inOrder(!spreadNamed);
      spreadNamed = parseExpression(c);
    } else if (c.token.type === 'name' && c.ahead.type === 'mark' && c.ahead.text === '=') {
      const name = c.next().text;
      inOrder(!spreadNamed && !named.some(([other]) => other === name));
      c.next();
      named.push([name, parseExpression(c)]);
    } else {
      inOrder(!spread && !spreadNamed && named.length === 0);
      positional.push(parseExpression(c));
    }
    if (!c.skipMark(',')) break;
  }
  c.expectMark(')');
  return { positional, named, spread, spreadNamed };
}
