import type { ConstantPool } from './constants.ts';
import { VALUE_TYPE_CODES, type ValueType } from './expr.ts';
import { FunctionBuilder, type FunctionRef, type Local } from './function.ts';
import { ByteWriter } from './writer.ts';

const MAGIC_AND_VERSION = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const SECTION = { custom: 0, type: 1, import: 2, function: 3, table: 4, export: 7, element: 9, code: 10 } as const;
const KIND = { function: 0, table: 1, memory: 2, global: 3 } as const;
const OP = { globalGet: 0x23, i32Const: 0x41, end: 0x0b } as const;
const IMMUTABLE = 0;
const FUNCTION_NAMES = 1;
const FUNCTION_TYPE = 0x60;
const FUNCTION_REFERENCE = 0x70;
const LIMITS = { minimum: 0, minimumMaximum: 1, sharedMinimumMaximum: 3 } as const;

/** The largest wasm32 memory: 65536 pages of 64 KiB, 4 GiB. */
export const MAX_PAGES = 65_536;

export type ParamTypes = Readonly<Record<string, ValueType>>;
export type ParamLocals<P extends ParamTypes> = { readonly [K in keyof P]: Local<P[K]> };

export interface FunctionOptions {
  readonly export?: boolean;
  readonly result?: ValueType;
}

interface Import {
  readonly name: string;
  write(out: ByteWriter): void;
}

interface Element {
  /** Table index, or number of an imported global that holds it. */
  readonly offset: number;
  readonly imported: boolean;
  readonly functions: readonly FunctionRef[];
}

interface Definition {
  readonly ref: FunctionRef;
  readonly exported: boolean;
  readonly body: ByteWriter;
}

/**
 * One WebAssembly module. All imports come from the namespace `env`, and before the first function. Example:
 *
 *     const m = new ModuleBuilder({ shared: true });
 *     m.function('addOne', { p: 'i32', n: 'i32' }, (f, { p, n }) => {
 *       const end = f.i32('end', i32.add(p, i32.shl(n, 2)));
 *       f.while(i32.ltU(p, end), () => {
 *         f.v128Store(p, f32x4.add(v128.load(p), f32x4.splat(1)));
 *         p.inc(16);
 *       });
 *     }, { export: true });
 *     new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory } });
 */
export class ModuleBuilder {
  readonly #pool: ConstantPool | undefined;
  readonly #types: string[] = [];
  readonly #imports: Import[] = [];
  readonly #defined: Definition[] = [];
  readonly #elements: Element[] = [];
  #importedFunctions = 0;
  #globals = 0;
  #ownTable: number | undefined;

  constructor(options: { readonly shared: boolean; readonly pool?: ConstantPool }) {
    this.#pool = options.pool;
    this.#imports.push({
      name: 'memory',
      write: (out) => {
        out.byte(KIND.memory);
        out.byte(options.shared ? LIMITS.sharedMinimumMaximum : LIMITS.minimum);
        out.unsigned(1);
        if (options.shared) out.unsigned(MAX_PAGES);
      },
    });
  }

  importFunction(name: string, params: readonly ValueType[], result?: ValueType): FunctionRef {
    if (this.#defined.length) throw new Error(`${name}: imports must come before the first function`);
    const typeIndex = this.#typeIndex(params, result);
    this.#imports.push({
      name,
      write: (out) => {
        out.byte(KIND.function);
        out.unsigned(typeIndex);
      },
    });
    return { name, index: this.#importedFunctions++, typeIndex, params, result };
  }

  /** Uses the table `env.table` of another module, of at least `size` entries. */
  importTable(size: number): void {
    this.#imports.push({
      name: 'table',
      write: (out) => {
        out.byte(KIND.table);
        out.byte(FUNCTION_REFERENCE);
        out.byte(LIMITS.minimum);
        out.unsigned(size);
      },
    });
  }

  /** Defines a table for `callIndirect` and exports it as `table`. */
  defineTable(size: number): void {
    this.#ownTable = size;
  }

  /**
   * Fills the table when the module is instantiated, from `offset` on, or from the number imported as `env.<offset>` on:
   * then one module can be instantiated several times.
   */
  fillTable(offset: number | string, functions: readonly FunctionRef[]): void {
    if (typeof offset === 'string') {
      this.#imports.push({
        name: offset,
        write: (out) => {
          out.byte(KIND.global);
          out.byte(VALUE_TYPE_CODES.i32);
          out.byte(IMMUTABLE);
        },
      });
    }
    this.#elements.push({
      offset: typeof offset === 'number' ? offset : this.#globals++,
      functions,
      imported: typeof offset === 'string',
    });
  }

  /** A signature for `callIndirect`. */
  signature(name: string, params: readonly ValueType[], result?: ValueType): FunctionRef {
    return { name, index: -1, typeIndex: this.#typeIndex(params, result), params, result };
  }

  function<const P extends ParamTypes>(
    name: string,
    params: P,
    build: (f: FunctionBuilder, params: ParamLocals<P>) => void,
    options: FunctionOptions = {},
  ): FunctionRef {
    const types = Object.values(params);
    const f = new FunctionBuilder(name, options.result, types.length, this.#pool);
    const locals = Object.fromEntries(Object.entries(params).map(([key, type]) => [key, f.local(type, key)]));
    build(f, locals as unknown as ParamLocals<P>);
    const ref: FunctionRef = {
      name,
      index: this.#importedFunctions + this.#defined.length,
      typeIndex: this.#typeIndex(types, options.result),
      params: types,
      result: options.result,
    };
    this.#defined.push({ ref, exported: options.export ?? false, body: f.finish() });
    return ref;
  }

  /** The module's bytes. */
  finish(): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter(1 << 16);
    out.bytes(MAGIC_AND_VERSION);
    this.#section(out, SECTION.type, this.#types, (section, type) => section.bytes(type.split(',').map(Number)));
    this.#section(out, SECTION.import, this.#imports, (section, entry) => {
      section.name('env');
      section.name(entry.name);
      entry.write(section);
    });
    this.#section(out, SECTION.function, this.#defined, (section, d) => section.unsigned(d.ref.typeIndex));
    if (this.#ownTable !== undefined) {
      this.#section(out, SECTION.table, [this.#ownTable], (section, size) => {
        section.byte(FUNCTION_REFERENCE);
        section.byte(LIMITS.minimum);
        section.unsigned(size);
      });
    }
    this.#exports(out);
    this.#section(out, SECTION.element, this.#elements, (section, { offset, functions, imported }) => {
      section.unsigned(0);
      section.byte(imported ? OP.globalGet : OP.i32Const);
      if (imported) section.unsigned(offset);
      else section.signed(offset);
      section.byte(OP.end);
      section.unsigned(functions.length);
      for (const f of functions) section.unsigned(f.index);
    });
    this.#section(out, SECTION.code, this.#defined, (section, d) => section.sized(d.body));
    this.#names(out);
    return out.view().slice();
  }

  /** The custom section by which profilers and stack traces name functions. */
  #names(out: ByteWriter): void {
    const names = new ByteWriter();
    names.unsigned(this.#defined.length);
    for (const { ref } of this.#defined) {
      names.unsigned(ref.index);
      names.name(ref.name);
    }
    const section = new ByteWriter();
    section.name('name');
    section.byte(FUNCTION_NAMES);
    section.sized(names);
    out.byte(SECTION.custom);
    out.sized(section);
  }

  #exports(out: ByteWriter): void {
    const entries: { readonly name: string; readonly kind: number; readonly index: number }[] = this.#defined
      .filter((d) => d.exported)
      .map((d) => ({ name: d.ref.name, kind: KIND.function, index: d.ref.index }));
    if (this.#ownTable !== undefined) entries.push({ name: 'table', kind: KIND.table, index: 0 });
    this.#section(out, SECTION.export, entries, (section, e) => {
      section.name(e.name);
      section.byte(e.kind);
      section.unsigned(e.index);
    });
  }

  #section<T>(
    out: ByteWriter,
    id: number,
    entries: readonly T[],
    write: (section: ByteWriter, entry: T) => void,
  ): void {
    if (!entries.length) return;
    const section = new ByteWriter();
    section.unsigned(entries.length);
    for (const entry of entries) write(section, entry);
    out.byte(id);
    out.sized(section);
  }

  #typeIndex(params: readonly ValueType[], result: ValueType | undefined): number {
    const codes = params.map((p) => VALUE_TYPE_CODES[p]);
    const results = result ? [1, VALUE_TYPE_CODES[result]] : [0];
    const type = [FUNCTION_TYPE, codes.length, ...codes, ...results].join();
    const known = this.#types.indexOf(type);
    if (known >= 0) return known;
    this.#types.push(type);
    return this.#types.length - 1;
  }
}
