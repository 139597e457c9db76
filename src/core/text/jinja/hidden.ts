/**
 * Names that a body assigns before it reads them. They are unset from the start of the body on, also for what lies
 * within it, even where the caller has given a variable of that name: names are bound when a template is compiled.
 */
import type { Body, CallArgs, Expr, MacroBody, Statement, Target } from './ast.ts';

class Frame {
  readonly outer: Frame | undefined;
  /** Names that belong to this body. */
  names = new Set<string>();
  stored = new Set<string>();
  hidden = new Set<string>();

  constructor(outer?: Frame) {
    this.outer = outer;
  }

  knows(name: string): boolean {
    return this.names.has(name) || (this.outer?.knows(name) ?? false);
  }
  load(name: string): void {
    if (!this.knows(name)) this.names.add(name);
  }
  store(name: string): void {
    this.stored.add(name);
    if (this.names.has(name)) return;
    if (!this.knows(name)) this.hidden.add(name);
    this.names.add(name);
  }
  declare(name: string): void {
    this.stored.add(name);
    this.names.add(name);
  }
  copy(): Frame {
    const copy = new Frame(this.outer);
    copy.names = new Set(this.names);
    copy.stored = new Set(this.stored);
    copy.hidden = new Set(this.hidden);
    return copy;
  }
  /** Takes over what branches did. A name that not all of them store may come from outside. */
  merge(branches: readonly Frame[]): void {
    const counts = new Map<string, number>();
    for (const branch of branches) {
      for (const name of branch.stored) if (!this.stored.has(name)) counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    for (const branch of branches) {
      for (const name of branch.names) {
        this.names.add(name);
        if (branch.hidden.has(name)) this.hidden.add(name);
        else this.hidden.delete(name);
      }
      for (const name of branch.stored) this.stored.add(name);
    }
    for (const [name, count] of counts) if (count < branches.length) this.hidden.delete(name);
  }
}

/** The hidden names of every body that has some. */
export function hiddenNames(body: Body): ReadonlyMap<Body, readonly string[]> {
  const found = new Map<Body, readonly string[]>();
  analyze(body, new Frame(), found);
  return found;
}

type Found = Map<Body, readonly string[]>;

/** Looks at a body with names of its own, then at those within it. */
function analyze(body: Body, frame: Frame, found: Found): void {
  for (const statement of body) own(statement, frame);
  if (frame.hidden.size > 0) found.set(body, [...frame.hidden]);
  for (const statement of body) within(statement, frame, found);
}

/** The names that a statement reads and stores in the body it stands in. */
function own(statement: Statement, frame: Frame): void {
  switch (statement.kind) {
    case 'output':
      read(statement.value, frame);
      break;
    case 'set':
      read(statement.value, frame);
      store(statement.target, frame);
      break;
    case 'capture':
      store(statement.target, frame);
      break;
    case 'for':
      read(statement.items, frame);
      break;
    case 'if':
      branches(statement.branches, statement.otherwise, frame);
      break;
    case 'macro':
      frame.store(statement.macro.name ?? '');
      break;
    case 'call block':
      read(statement.call, frame);
      break;
    case 'filter block':
      read(statement.filter, frame);
      break;
    case 'with':
      for (const [, value] of statement.values) read(value, frame);
  }
}

/** An `if` has three branches: the first one, all between, and the last one. */
function branches(all: readonly (readonly [Expr, Body])[], otherwise: Body, frame: Frame): void {
  const [first, ...rest] = all;
  if (!first) return;
  read(first[0], frame);
  const parts = [frame.copy(), frame.copy(), frame.copy()] as const;
  for (const statement of first[1]) own(statement, parts[0]);
  for (const branch of rest) branches([branch], [], parts[1]);
  for (const statement of otherwise) own(statement, parts[2]);
  frame.merge(parts);
}

/** The bodies within a statement that have names of their own. */
function within(statement: Statement, outer: Frame, found: Found): void {
  const frame = new Frame(outer);
  switch (statement.kind) {
    case 'if':
      for (const body of [...statement.branches.map(([, b]) => b), statement.otherwise]) {
        for (const inner of body) within(inner, outer, found);
      }
      break;
    case 'for':
      frame.declare('loop');
      declare(statement.target, frame);
      analyze(statement.body, frame, found);
      analyze(statement.otherwise, new Frame(outer), found);
      break;
    case 'macro':
      macro(statement.macro, frame, found);
      break;
    case 'call block':
      macro(statement.caller, frame, found);
      break;
    case 'with':
      for (const [target] of statement.values) declare(target, frame);
      analyze(statement.body, frame, found);
      break;
    case 'block':
      analyze(statement.body, new Frame(), found);
      break;
    case 'capture':
    case 'filter block':
    case 'autoescape':
    case 'generation':
      analyze(statement.body, frame, found);
  }
}

function macro({ params, defaults, body }: MacroBody, frame: Frame, found: Found): void {
  for (const name of [...params, 'caller', 'kwargs', 'varargs']) frame.declare(name);
  for (const value of defaults) read(value, frame);
  analyze(body, frame, found);
}

function store(target: Target, frame: Frame): void {
  if (target.kind === 'name') frame.store(target.name);
  else if (target.kind === 'member') frame.load(target.space);
  else for (const item of target.items) store(item, frame);
}

function declare(target: Target, frame: Frame): void {
  if (target.kind === 'name') frame.declare(target.name);
  else if (target.kind === 'tuple') for (const item of target.items) declare(item, frame);
}

function read(expr: Expr | undefined, frame: Frame): void {
  if (!expr) return;
  if (expr.kind === 'name') frame.load(expr.name);
  else for (const part of parts(expr)) read(part, frame);
}

function argParts(args: CallArgs): (Expr | undefined)[] {
  return [...args.positional, ...args.named.map(([, value]) => value), args.spread, args.spreadNamed];
}

/** The expressions directly within an expression. */
function parts(expr: Expr): readonly (Expr | undefined)[] {
  switch (expr.kind) {
    case 'const':
    case 'name':
      return [];
    case 'list':
    case 'tuple':
      return expr.items;
    case 'dict':
      return expr.pairs.flat();
    case 'attribute':
    case 'not':
    case 'sign':
      return [expr.of];
    case 'item':
      return [expr.of, expr.key];
    case 'slice':
      return [expr.of, expr.start, expr.stop, expr.step];
    case 'call':
    case 'filter':
    case 'test':
      return [expr.of, ...argParts(expr.args)];
    case 'cond':
      return [expr.test, expr.chosen, expr.otherwise];
    case 'and':
    case 'or':
    case 'binary':
      return [expr.left, expr.right];
    case 'concat':
      return expr.parts;
    case 'compare':
      return [expr.first, ...expr.rest.map(([, value]) => value)];
    default:
      return expr satisfies never;
  }
}
