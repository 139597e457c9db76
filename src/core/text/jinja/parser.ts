/** Statements: a template as a tree. */
import { FormatError } from '../../errors.ts';
import type { BlockStatement, Body, Expr, MacroBody, Signature, Statement, Target, TemplateTree } from './ast.ts';
import { Cursor } from './cursor.ts';
import { parseExpression, parseFilter, parseTuple } from './expressionParser.ts';
import { FILTERS } from './filtersValue.ts';
import { hiddenNames } from './hidden.ts';
import { tokenize } from './lexer.ts';
import { TESTS } from './tests.ts';

const CONSTANTS: ReadonlySet<string> = new Set(['true', 'false', 'none', 'True', 'False', 'None']);
/** Statements that name other templates. There are none, so it is an error to reach one. */
const ELSEWHERE: ReadonlySet<string> = new Set(['extends', 'include', 'import', 'from']);

/** What may be assigned to: also the names of a namespace, names alone, or names of a scope that begins with them. */
type TargetKind = 'member' | 'name' | 'local';

/** Parses a template. Errors are `FormatError`s that name the line. */
export function parseTemplate(source: string): TemplateTree {
  try {
    return new Parser(new Cursor(tokenize(source), FILTERS, TESTS)).template();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new FormatError('chat template: expected expressions that fit the stack, got longer ones', { cause: error });
  }
}

class Parser {
  readonly #c: Cursor;
  readonly #blocks = new Map<string, BlockStatement>();
  /** Loops that `break` may leave; macros and blocks begin anew. */
  #loops = 0;
  /** Loops around, whatever lies between. */
  #within = 0;

  constructor(cursor: Cursor) {
    this.#c = cursor;
  }

  template(): TemplateTree {
    const body = this.#c.certain(() => this.#statements([]));
    return { body, blocks: this.#blocks, hidden: hiddenNames(body) };
  }

  /** Statements up to one of the tags, whose name is the current token then; without tags to the end. */
  #statements(ends: readonly string[]): Body {
    const c = this.#c;
    const body: Statement[] = [];
    while (c.token.type !== 'eof') {
      const { type, text, line } = c.next();
      if (type === 'text') {
        body.push({ kind: 'text', text, line });
      } else if (text === '{{') {
        body.push({ kind: 'output', value: parseTuple(c), line });
        c.expectEnd();
      } else {
        if (c.isAny(ends)) return body;
        body.push(...this.#statement(line));
        c.expectEnd();
      }
    }
    return ends.length === 0 ? body : c.fail(`expected ${ends.join(' or ')}, got the end of the template`);
  }

  /** The rest of a tag's own line, and what follows up to one of the tags. */
  #body(...ends: string[]): Body {
    this.#c.skipMark(':');
    this.#c.expectEnd();
    return this.#c.nested(() => this.#statements(ends));
  }

  #closed(end: string): Body {
    const body = this.#body(end);
    this.#c.next();
    return body;
  }

  /** A body that is reached for certain once its statement is. */
  #scope(end: string): Body {
    return this.#c.certain(() => this.#closed(end));
  }

  #statement(line: number): Statement[] {
    const c = this.#c;
    const tag = c.expectName();
    switch (tag) {
      case 'set':
        return [this.#set(line)];
      case 'if':
        return [this.#if(line)];
      case 'for':
        return [this.#for(line)];
      case 'macro':
        return [{ kind: 'macro', macro: this.#macro(c.expectName(), () => this.#signature(), 'endmacro'), line }];
      case 'call':
        return [this.#call(line)];
      case 'filter': {
        const filter = c.certain(() => parseFilter(c, undefined, true)) ?? c.fail('expected a filter');
        return [{ kind: 'filter block', filter, body: this.#scope('endfilter'), line }];
      }
      case 'with':
        return [this.#with(line)];
      case 'print':
        return this.#print(line);
      case 'block':
        return [this.#block(line)];
      case 'autoescape':
        return [{ kind: 'autoescape', on: parseExpression(c), body: this.#scope('endautoescape'), line }];
      case 'generation':
        return [{ kind: 'generation', body: this.#apart(() => this.#scope('endgeneration')), line }];
      case 'break':
      case 'continue':
        if (this.#loops === 0) c.fail(`${tag}: expected a loop around it`, line);
        return [{ kind: tag, line }];
    }
    if (!ELSEWHERE.has(tag)) c.fail(`unknown tag ${tag}`, line);
    while (c.token.type !== 'end' && c.token.type !== 'eof') c.next();
    return [{ kind: 'elsewhere', tag, line }];
  }

  /** What runs as a function of its own: loops around it cannot be left from within. */
  #apart<T>(parse: () => T): T {
    const loops = this.#loops;
    this.#loops = 0;
    const result = parse();
    this.#loops = loops;
    return result;
  }

  #set(line: number): Statement {
    const c = this.#c;
    const target = this.#target('member');
    if (c.skipMark('=')) return { kind: 'set', target, value: parseTuple(c), line };
    const filter = c.certain(() => parseFilter(c, undefined));
    return { kind: 'capture', target, filter, body: this.#scope('endset'), line };
  }

  /** Names that get values. */
  #target(kind: TargetKind, endsAt?: string): Target {
    const c = this.#c;
    const items: Target[] = [];
    let tuple = false;
    do {
      if (items.length > 0) tuple = true;
      const ended = c.token.type === 'end' || c.isMark(')') || (endsAt !== undefined && c.isName(endsAt));
      if (tuple && ended) break;
      items.push(this.#targetItem(kind));
    } while (c.skipMark(','));
    const [first] = items;
    return !tuple && first ? first : { kind: 'tuple', items };
  }

  #targetItem(kind: TargetKind): Target {
    const c = this.#c;
    if (c.skipMark('(')) {
      const inner = c.nested(() => this.#target(kind === 'member' ? 'name' : kind));
      c.expectMark(')');
      return inner;
    }
    const { line } = c.token;
    const name = c.expectName();
    if (CONSTANTS.has(name)) c.fail(`expected a name to assign to, got ${name}`, line);
    if (kind === 'member' && c.skipMark('.')) return { kind: 'member', space: name, name: c.expectName() };
    if (name === 'loop' && this.#within > 0 && kind !== 'local')
      c.fail('expected no assignment to "loop" within a loop', line);
    c.store(name);
    return { kind: 'name', name };
  }

  #if(line: number): Statement {
    const c = this.#c;
    const branches: [Expr, Body][] = [];
    const unknown = c.unknownCount;
    let otherwise: Body = [];
    do branches.push([parseTuple(c, false), this.#body('elif', 'else', 'endif')]);
    while (c.skipName('elif'));
    if (c.next().text === 'else') otherwise = this.#closed('endif');
    c.forgive(unknown);
    return { kind: 'if', branches, otherwise, line };
  }

  #for(line: number): Statement {
    const c = this.#c;
    this.#within++;
    const target = this.#target('name', 'in');
    if (!c.skipName('in')) c.fail(`expected in, got ${c.token.text}`);
    const items = parseTuple(c, false, 'recursive');
    const test = c.skipName('if') ? c.certain(() => parseExpression(c)) : undefined;
    const recursive = c.skipName('recursive');
    this.#loops++;
    const body = c.certain(() => this.#body('endfor', 'else'));
    this.#loops--;
    const otherwise = c.next().text === 'else' ? this.#scope('endfor') : [];
    this.#within--;
    return { kind: 'for', target, items, test, recursive, body, otherwise, line };
  }

  #signature(): Signature {
    const c = this.#c;
    const params: string[] = [];
    const defaults: Expr[] = [];
    c.expectMark('(');
    while (!c.isMark(')')) {
      if (params.length > 0) c.expectMark(',');
      const name = c.expectName();
      if (CONSTANTS.has(name) || params.includes(name)) c.fail(`expected a new name, got ${name}`);
      c.store(name);
      params.push(name);
      if (c.skipMark('=')) defaults.push(c.certain(() => parseExpression(c)));
      else if (defaults.length > 0) c.fail('expected parameters without a default before those with one');
    }
    c.expectMark(')');
    return { params, defaults };
  }

  #macro(name: string | undefined, signature: () => Signature, end: string): MacroBody {
    const { params, defaults } = signature();
    const { result, used } = this.#c.tracked(() => this.#apart(() => this.#scope(end)));
    const at = params.indexOf('caller');
    if (used.caller && at >= 0 && at < params.length - defaults.length) {
      this.#c.fail('expected a default for the parameter "caller"');
    }
    return {
      name,
      params,
      defaults,
      body: result,
      caller: used.caller && at < 0,
      kwargs: used.kwargs && !params.includes('kwargs'),
      varargs: used.varargs && !params.includes('varargs'),
    };
  }

  #call(line: number): Statement {
    const c = this.#c;
    const signature = c.isMark('(') ? this.#signature() : { params: [], defaults: [] };
    const call = parseExpression(c);
    if (call.kind !== 'call') return c.fail('expected a call', line);
    return { kind: 'call block', call, caller: this.#macro(undefined, () => signature, 'endcall'), line };
  }

  #with(line: number): Statement {
    const c = this.#c;
    const values: [Target, Expr][] = [];
    while (c.token.type !== 'end') {
      if (values.length > 0) c.expectMark(',');
      const target = this.#target('local');
      c.expectMark('=');
      values.push([target, parseExpression(c)]);
    }
    return { kind: 'with', values, body: this.#scope('endwith'), line };
  }

  #print(line: number): Statement[] {
    const c = this.#c;
    const outputs: Statement[] = [];
    while (c.token.type !== 'end') {
      if (outputs.length > 0) c.expectMark(',');
      outputs.push({ kind: 'output', value: parseExpression(c), line });
    }
    return outputs;
  }

  #block(line: number): Statement {
    const c = this.#c;
    const name = c.expectName();
    const scoped = c.skipName('scoped');
    const required = c.skipName('required');
    const body = c.apart(() => this.#apart(() => this.#scope('endblock')));
    if (required && !body.every((part) => part.kind === 'text' && part.text.trim() === '')) {
      c.fail('expected only space in a required block', line);
    }
    if (c.isName(name)) c.next();
    if (this.#blocks.has(name)) c.fail(`expected one block "${name}", got two`, line);
    const block: BlockStatement = { kind: 'block', name, scoped, required, body };
    this.#blocks.set(name, block);
    return { ...block, line };
  }
}
