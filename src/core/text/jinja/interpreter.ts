/** Runs a template. */
import { RequestValidationError } from '../../errors.ts';
import type {
  BlockStatement,
  Body,
  FilterExpr,
  ForStatement,
  MacroBody,
  Statement,
  Target,
  TemplateTree,
} from './ast.ts';
import { truth } from './compare.ts';
import { applyFilter, argsOf, call, evaluate } from './evaluate.ts';
import { Budget, Fault, MAX_TEXT, unfit } from './fault.ts';
import { FILTERS } from './filtersValue.ts';
import { assign, globals } from './globals.ts';
import { Loop } from './loop.ts';
import { bindMacro, macroAttribute } from './macro.ts';
import { escaped } from './operators.ts';
import type { Runtime } from './runtime.ts';
import { Scope } from './scope.ts';
import { each, joinTexts, textArg } from './sequence.ts';
import { str } from './show.ts';
import { TESTS } from './tests.ts';
import type { Thing, Value } from './values.ts';
import { Iter, Markup, Namespace, native, Undefined } from './values.ts';

/** How a body ended. */
type Flow = 'done' | 'break' | 'continue';

/** Where a part of the text begins and ends, in UTF-16 units. */
export type Span = readonly [start: number, end: number];

export interface Rendering {
  readonly text: string;
  /** What stood in `{% generation %}` blocks: the turns of the model. */
  readonly generated: readonly Span[];
}

export interface RenderOptions {
  readonly now: () => Date;
}

/** Renders a template with variables. Throws `RequestValidationError` where the template refuses or fails. */
export function render(
  tree: TemplateTree,
  variables: () => ReadonlyMap<string, Value>,
  options: RenderOptions,
): Rendering {
  const budget = new Budget();
  let interpreter: Interpreter | undefined;
  try {
    const root = new Scope(undefined, new Map([...globals(budget, options.now), ...variables()]));
    interpreter = new Interpreter(tree, root, budget);
    return interpreter.run();
  } catch (error) {
    const place = interpreter ? `, line ${interpreter.line}` : '';
    if (error instanceof Fault) {
      throw new RequestValidationError('template_error', `chat template${place}: ${error.message}`, { cause: error });
    }
    if (!(error instanceof RangeError)) throw error;
    const problem = 'expected calls and values that fit the stack, got deeper ones';
    throw new RequestValidationError('template_error', `chat template${place}: ${problem}`, { cause: error });
  }
}

class Interpreter implements Runtime {
  readonly budget: Budget;
  readonly filters = FILTERS;
  readonly tests = TESTS;
  autoescape = false;
  /** Of the statement that runs. */
  line = 1;
  readonly #tree: TemplateTree;
  readonly #top: Scope;
  readonly #written: string[] = [];
  readonly #generated: Span[] = [];
  #length = 0;
  #out = this.#written;

  constructor(tree: TemplateTree, root: Scope, budget: Budget) {
    this.#tree = tree;
    this.budget = budget;
    this.#top = this.#scope(tree.body, root);
    if (tree.blocks.size > 0) this.#top.set('self', this.#self());
  }

  run(): Rendering {
    this.#body(this.#tree.body, this.#top);
    return { text: this.#written.join(''), generated: this.#generated };
  }

  /** Variables of a body. */
  #scope(body: Body, outer: Scope): Scope {
    const scope = new Scope(outer);
    for (const name of this.#tree.hidden.get(body) ?? []) scope.hide(name);
    return scope;
  }

  #write(text: string): void {
    this.budget.text(text.length);
    this.#out.push(text);
    if (this.#out !== this.#written) return;
    this.#length += text.length;
    if (this.#length > MAX_TEXT) throw new Fault(`expected a rendering of at most ${MAX_TEXT} characters, got more`);
  }

  #output(value: Value): void {
    this.#write(this.autoescape ? escaped(value, this.budget) : str(value, this.budget));
  }

  /** The text that is written meanwhile; `undefined` when a loop around is left or continued from within. */
  #captured(write: () => Flow): string | undefined {
    const outer = this.#out;
    const parts: string[] = [];
    this.#out = parts;
    try {
      const flow = write();
      this.#left = flow;
      return flow === 'done' ? joinTexts(parts, '', this.budget) : undefined;
    } finally {
      this.#out = outer;
    }
  }

  /** How the captured body ended. */
  #left: Flow = 'done';

  /** Text as a value: safe where output is escaped. */
  #textValue(text: string): Value {
    return this.autoescape ? new Markup(text) : text;
  }

  #body(body: Body, scope: Scope): Flow {
    for (const statement of body) {
      const flow = this.#statement(statement, scope);
      if (flow !== 'done') return flow;
    }
    return 'done';
  }

  #statement(statement: Statement, scope: Scope): Flow {
    this.budget.step();
    this.line = statement.line;
    switch (statement.kind) {
      case 'text':
        this.#write(statement.text);
        return 'done';
      case 'output':
        this.#output(evaluate(statement.value, scope, this));
        return 'done';
      case 'set':
        this.#checkMembers(statement.target, scope);
        this.#assign(statement.target, evaluate(statement.value, scope, this), scope);
        return 'done';
      case 'if': {
        const branch = statement.branches.find(([test]) => truth(evaluate(test, scope, this)));
        return this.#body(branch ? branch[1] : statement.otherwise, scope);
      }
      case 'for':
        return this.#for(statement, evaluate(statement.items, scope, this), scope, 0);
      case 'macro':
        scope.set(statement.macro.name ?? '', this.#macro(statement.macro, scope));
        return 'done';
      case 'call block': {
        const { call: target, caller } = statement;
        const args = argsOf(target.args, scope, this);
        const named = new Map(args.named).set('caller', this.#macro(caller, scope));
        this.#write(textArg(call(evaluate(target.of, scope, this), { positional: args.positional, named })));
        return 'done';
      }
      case 'filter block': {
        const inner = this.#scope(statement.body, scope);
        const text = this.#captured(() => this.#body(statement.body, inner));
        if (text === undefined) return this.#left;
        this.#write(textArg(this.#filtered(statement.filter, text, inner)));
        return 'done';
      }
      case 'capture': {
        const inner = this.#scope(statement.body, scope);
        const text = this.#captured(() => this.#body(statement.body, inner));
        if (text === undefined) return this.#left;
        const value = statement.filter ? this.#filtered(statement.filter, text, inner) : text;
        this.#assign(statement.target, this.autoescape ? new Markup(str(value, this.budget)) : value, scope);
        return 'done';
      }
      case 'with': {
        const inner = this.#scope(statement.body, scope);
        for (const [target, value] of statement.values) this.#assign(target, evaluate(value, scope, this), inner);
        return this.#body(statement.body, inner);
      }
      case 'autoescape':
        return this.#escaping(truth(evaluate(statement.on, scope, this)), () =>
          this.#body(statement.body, this.#scope(statement.body, scope)),
        );
      case 'generation':
        this.#generation(statement.body, scope);
        return 'done';
      case 'block':
        this.#write(this.#block(statement, statement.scoped ? scope : this.#top));
        return 'done';
      case 'break':
      case 'continue':
        return statement.kind;
      case 'elsewhere':
        throw new Fault(`${statement.tag}: expected a template that stands alone; there are no others to read`);
      default:
        return statement satisfies never;
    }
  }

  #escaping<T>(on: boolean, body: () => T): T {
    const outer = this.autoescape;
    this.autoescape = on;
    try {
      return body();
    } finally {
      this.autoescape = outer;
    }
  }

  #generation(body: Body, scope: Scope): void {
    const start = this.#length;
    const text = this.#captured(() => this.#body(body, this.#scope(body, scope))) ?? '';
    this.#generated.push([start, start + text.length]);
    this.#write(text);
  }

  /** Filters the text of a block: the innermost filter is the one that has nothing to filter. */
  #filtered(filter: FilterExpr, text: string, scope: Scope): Value {
    const chain: FilterExpr[] = [];
    for (let at: FilterExpr | undefined = filter; at; at = at.of?.kind === 'filter' ? at.of : undefined) chain.push(at);
    return chain.reduceRight<Value>(
      (value, { name, args }) => applyFilter(name, value, args, scope, this),
      this.#textValue(text),
    );
  }

  #for(statement: ForStatement, items: Value, scope: Scope, depth: number): Flow {
    const { target, body, otherwise, test, recursive } = statement;
    const wanted = test ? new Iter(this.#matching(statement, items, scope)) : items;
    const recurse = recursive
      ? (inner: Value, at: number): Value => this.#recurse(statement, inner, scope, at)
      : undefined;
    const loop = new Loop(wanted, this.budget, depth, recurse);
    let completed = false;
    for (let item = loop.advance(); item !== undefined; item = loop.advance()) {
      const inner = this.#scope(body, scope);
      inner.set('loop', loop);
      this.#assign(target, item, inner);
      const flow = this.#body(body, inner);
      if (flow === 'break') break;
      // A round that is cut short does not count.
      if (flow === 'done') completed = true;
    }
    return completed ? 'done' : this.#body(otherwise, this.#scope(otherwise, scope));
  }

  *#matching({ target, test }: ForStatement, items: Value, scope: Scope): Generator<Value, void> {
    for (const item of each(items, this.budget)) {
      const inner = new Scope(scope);
      this.#assign(target, item, inner);
      if (!test || truth(evaluate(test, inner, this))) yield item;
    }
  }

  #recurse(statement: ForStatement, items: Value, scope: Scope, depth: number): Value {
    return this.budget.nested(() => {
      const text = this.#captured(() => this.#for(statement, items, scope, depth));
      return this.#textValue(text ?? '');
    });
  }

  /** Namespaces must be such before the value is known. */
  #checkMembers(target: Target, scope: Scope): void {
    if (target.kind === 'tuple') for (const item of target.items) this.#checkMembers(item, scope);
    if (target.kind === 'member' && !(scope.get(target.space) instanceof Namespace)) {
      throw new Fault('cannot assign attribute on non-namespace object');
    }
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    if (target.kind === 'name') {
      scope.set(target.name, value);
    } else if (target.kind === 'member') {
      const space = scope.get(target.space);
      if (space instanceof Namespace) assign(space, target.name, value);
    } else {
      const items: Value[] = [];
      for (const item of each(value, this.budget)) if (items.push(item) > target.items.length) break;
      if (items.length !== target.items.length) {
        throw unfit(
          `expected ${target.items.length} values to unpack, got ${items.length > target.items.length ? 'more' : items.length}`,
        );
      }
      for (const [i, inner] of target.items.entries()) this.#assign(inner, items[i] as Value, scope);
    }
  }

  #macro(macro: MacroBody, scope: Scope): Thing {
    const { name } = macro;
    const escapes = this.autoescape;
    return {
      kind: 'thing',
      typeName: 'Macro',
      repr: () => `<Macro ${name === undefined ? 'anonymous' : `'${name}'`}>`,
      attribute: (key) => macroAttribute(macro, key),
      call: (args) =>
        this.budget.nested(() => {
          const inner = this.#scope(macro.body, scope);
          bindMacro(macro, args, inner, (expr) => evaluate(expr, inner, this));
          const text = this.#escaping(escapes, () => this.#captured(() => this.#body(macro.body, inner)));
          return this.#textValue(text ?? '');
        }),
    };
  }

  #block(block: BlockStatement, scope: Scope): string {
    if (block.required) throw new Fault(`Required block '${block.name}' not found`);
    const inner = this.#scope(block.body, scope);
    inner.set('super', new Undefined(`there is no parent block called '${block.name}'.`));
    return this.budget.nested(() => this.#captured(() => this.#body(block.body, inner)) ?? '');
  }

  /** `self`: the blocks of the template by name. */
  #self(): Thing {
    const { blocks } = this.#tree;
    return {
      kind: 'thing',
      typeName: 'TemplateReference',
      repr: () => '<TemplateReference>',
      attribute: (name) => {
        const block = blocks.get(name);
        return block && native(name, () => this.#textValue(this.#block(block, this.#top)));
      },
    };
  }
}
