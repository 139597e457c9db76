/** Parsed templates. */
import type { BinaryOperator } from './operators.ts';
import type { Value } from './values.ts';

export type CompareOperator = '==' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'not in';

export interface CallArgs {
  readonly positional: readonly Expr[];
  readonly named: readonly (readonly [name: string, value: Expr])[];
  /** `*rest` and `**rest`. */
  readonly spread: Expr | undefined;
  readonly spreadNamed: Expr | undefined;
}

export type Expr =
  | { readonly kind: 'const'; readonly value: Value }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'list' | 'tuple'; readonly items: readonly Expr[] }
  | { readonly kind: 'dict'; readonly pairs: readonly (readonly [Expr, Expr])[] }
  | { readonly kind: 'attribute'; readonly of: Expr; readonly name: string }
  | { readonly kind: 'item'; readonly of: Expr; readonly key: Expr }
  | {
      readonly kind: 'slice';
      readonly of: Expr;
      readonly start: Expr | undefined;
      readonly stop: Expr | undefined;
      readonly step: Expr | undefined;
    }
  | CallExpr
  | FilterExpr
  | { readonly kind: 'test'; readonly of: Expr; readonly name: string; readonly args: CallArgs }
  | { readonly kind: 'cond'; readonly test: Expr; readonly chosen: Expr; readonly otherwise: Expr | undefined }
  | { readonly kind: 'and' | 'or'; readonly left: Expr; readonly right: Expr }
  | { readonly kind: 'not'; readonly of: Expr }
  | { readonly kind: 'sign'; readonly operator: '+' | '-'; readonly of: Expr }
  | { readonly kind: 'binary'; readonly operator: BinaryOperator; readonly left: Expr; readonly right: Expr }
  | { readonly kind: 'concat'; readonly parts: readonly Expr[] }
  | { readonly kind: 'compare'; readonly first: Expr; readonly rest: readonly (readonly [CompareOperator, Expr])[] };

export interface CallExpr {
  readonly kind: 'call';
  readonly of: Expr;
  readonly args: CallArgs;
}

/** `of` is absent where a block's text is filtered. */
export interface FilterExpr {
  readonly kind: 'filter';
  readonly of: Expr | undefined;
  readonly name: string;
  readonly args: CallArgs;
}

export type Target =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'member'; readonly space: string; readonly name: string }
  | { readonly kind: 'tuple'; readonly items: readonly Target[] };

export interface Signature {
  readonly params: readonly string[];
  /** Defaults of the last parameters. */
  readonly defaults: readonly Expr[];
}

/** What a macro's body asks for besides its parameters. */
export interface Extras {
  readonly caller: boolean;
  readonly kwargs: boolean;
  readonly varargs: boolean;
}

export interface MacroBody extends Signature, Extras {
  readonly name: string | undefined;
  readonly body: Body;
}

export type Body = readonly Statement[];

export interface ForStatement {
  readonly kind: 'for';
  readonly target: Target;
  readonly items: Expr;
  readonly test: Expr | undefined;
  readonly recursive: boolean;
  readonly body: Body;
  readonly otherwise: Body;
}

export interface BlockStatement {
  readonly kind: 'block';
  readonly name: string;
  readonly scoped: boolean;
  readonly required: boolean;
  readonly body: Body;
}

export type Statement = { readonly line: number } & (
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'output'; readonly value: Expr }
  | { readonly kind: 'set'; readonly target: Target; readonly value: Expr }
  | { readonly kind: 'capture'; readonly target: Target; readonly filter: FilterExpr | undefined; readonly body: Body }
  | { readonly kind: 'if'; readonly branches: readonly (readonly [Expr, Body])[]; readonly otherwise: Body }
  | ForStatement
  | { readonly kind: 'macro'; readonly macro: MacroBody }
  | { readonly kind: 'call block'; readonly call: CallExpr; readonly caller: MacroBody }
  | { readonly kind: 'filter block'; readonly filter: FilterExpr; readonly body: Body }
  | { readonly kind: 'with'; readonly values: readonly (readonly [Target, Expr])[]; readonly body: Body }
  | { readonly kind: 'autoescape'; readonly on: Expr; readonly body: Body }
  | { readonly kind: 'generation'; readonly body: Body }
  | BlockStatement
  | { readonly kind: 'break' | 'continue' }
  /** A statement that needs other templates. */
  | { readonly kind: 'elsewhere'; readonly tag: string }
);

export interface TemplateTree {
  readonly body: Body;
  readonly blocks: ReadonlyMap<string, BlockStatement>;
  /** Names that bodies begin without, whatever the caller gives. */
  readonly hidden: ReadonlyMap<Body, readonly string[]>;
}
