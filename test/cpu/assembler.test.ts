import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConstantPool } from '../../src/backends/cpu/wasm/constants.ts';
import type { ValueType } from '../../src/backends/cpu/wasm/expr.ts';
import { ModuleBuilder } from '../../src/backends/cpu/wasm/module.ts';
import * as table from '../../src/backends/cpu/wasm/ops.ts';
import { ByteWriter } from '../../src/backends/cpu/wasm/writer.ts';
import { instantiate } from './support.ts';

const { f32, f32x4, f64, i16x8, i32, i32x4, i8x16, v128 } = table;

function leb(bytes: Uint8Array, signed: boolean): number {
  let value = 0n;
  let shift = 0n;
  let last = 0;
  for (last of bytes) {
    value |= BigInt(last & 127) << shift;
    shift += 7n;
  }
  if (signed && last & 64) value -= 1n << shift;
  return Number(value);
}

describe('ByteWriter', () => {
  it('writes LEB128 numbers that decode to themselves, in the fewest bytes', () => {
    fc.assert(
      fc.property(fc.integer(), (n) => {
        const s = new ByteWriter(1);
        s.signed(n);
        const u = new ByteWriter(1);
        u.unsigned(n);
        expect(leb(s.view(), true)).toBe(n);
        expect(leb(u.view(), false)).toBe(n >>> 0);
        expect(u.length).toBe(Math.max(1, Math.ceil((32 - Math.clz32(n)) / 7)));
      }),
    );
  });
});

describe('instructions', () => {
  it('compute what their names say', () => {
    const m = new ModuleBuilder({ shared: false });
    const f2 = (name: string, type: ValueType, op: (a: never, b: never) => never) =>
      m.function(name, { a: type, b: type }, (f, { a, b }) => f.return(op(a as never, b as never)), {
        export: true,
        result: type,
      });
    for (const [name, op] of Object.entries(table.i32)) {
      if (
        ['add', 'sub', 'mul', 'divS', 'divU', 'remS', 'remU', 'and', 'or', 'xor', 'shl', 'shrS', 'shrU'].includes(name)
      ) {
        f2(name, 'i32', op as never);
      }
    }
    m.function('max', { a: 'f32', b: 'f32' }, (f, { a, b }) => f.return(f32.max(a, b)), {
      export: true,
      result: 'f32',
    });
    m.function('sqrt', { a: 'f64' }, (f, { a }) => f.return(f64.sqrt(a)), { export: true, result: 'f64' });
    m.function('pick', { c: 'i32' }, (f, { c }) => f.return(i32.select(c, 7, -70000)), { export: true, result: 'i32' });
    const { exports } = instantiate(m);
    const js: Record<string, (a: number, b: number) => number> = {
      add: (a, b) => (a + b) | 0,
      sub: (a, b) => (a - b) | 0,
      mul: Math.imul,
      divS: (a, b) => (a / b) | 0,
      divU: (a, b) => ((a >>> 0) / (b >>> 0)) | 0,
      remS: (a, b) => (a % b) | 0,
      remU: (a, b) => ((a >>> 0) % (b >>> 0)) | 0,
      and: (a, b) => a & b,
      or: (a, b) => a | b,
      xor: (a, b) => a ^ b,
      shl: (a, b) => a << b,
      shrS: (a, b) => a >> b,
      shrU: (a, b) => (a >>> b) | 0,
    };
    for (const [name, expected] of Object.entries(js)) {
      for (const [a, b] of [
        [7, 3],
        [-7, 3],
        [-2, -5],
        [0x7fffffff, 2],
      ] as const) {
        expect(exports[name]!(a, b), `${name}(${a}, ${b})`).toBe(expected(a, b));
      }
    }
    expect(exports.max!(1.5, 2.5)).toBe(2.5);
    expect(exports.sqrt!(2)).toBe(Math.SQRT2);
    expect(exports.pick!(1)).toBe(7);
    expect(exports.pick!(0)).toBe(-70000);
  });

  it('of SIMD agree with scalar code on every lane', () => {
    const m = new ModuleBuilder({ shared: false });
    m.function(
      'run',
      {},
      (f) => {
        const a = f.v128('a', v128.load(0));
        const b = f.v128('b', v128.load(0, 16));
        const results = [
          i8x16.add(a, b),
          i8x16.shuffle(a, b, [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 31]),
          i16x8.shrU(a, 4),
          i16x8.extaddPairwiseI8x16S(a),
          i32x4.dotI16x8S(a, b),
          i32x4.extaddPairwiseI16x8S(a),
          i16x8.extendHighI8x16S(a),
          i8x16.narrowI16x8S(a, b),
          f32x4.convertI32x4S(a),
          v128.bitselect(a, b, v128.const(Array.from({ length: 16 }, (_, i) => (i & 1 ? 255 : 0)))),
          v128.load8x8S(0, 4),
          v128.load32Splat(0, 20),
          i32x4.splat(-3),
          v128.select(1, a, b),
        ];
        results.forEach((result, i) => {
          f.v128Store(0, result, 32 + 16 * i);
        });
        f.v128StoreLane(32, 0, a, 2, 32 + 16 * results.length);
        f.v128Store(0, v128.load32Lane(0, a, 3, 16), 48 + 16 * results.length);
      },
      { export: true },
    );
    const { memory, exports } = instantiate(m);
    const u8 = new Uint8Array(memory.buffer);
    for (let i = 0; i < 32; i++) u8[i] = (i * 37 + 11) & 255;
    const a8 = new Int8Array(memory.buffer.slice(0, 16));
    const b8 = new Int8Array(memory.buffer.slice(16, 32));
    const a16 = new Int16Array(a8.buffer);
    const b16 = new Int16Array(b8.buffer);
    const a32 = new Int32Array(a8.buffer);
    exports.run!();
    const clamp = (x: number) => Math.max(-128, Math.min(127, x));
    const lanes = (n: number, get: (i: number) => number) => Array.from({ length: n }, (_, i) => get(i));
    let at = 32;
    const next = <T>(kind: new (b: ArrayBuffer, o: number, n: number) => T, n: number): T => {
      at += 16;
      return new kind(memory.buffer as ArrayBuffer, at - 16, n);
    };
    expect([...next(Int8Array, 16)]).toEqual(lanes(16, (i) => ((a8[i]! + b8[i]!) << 24) >> 24));
    expect([...next(Int8Array, 16)]).toEqual(
      lanes(16, (i) => (i === 15 ? b8[15]! : i & 1 ? b8[i >> 1]! : a8[i >> 1]!)),
    );
    expect([...next(Uint16Array, 8)]).toEqual(lanes(8, (i) => (a16[i]! & 0xffff) >>> 4));
    expect([...next(Int16Array, 8)]).toEqual(lanes(8, (i) => a8[2 * i]! + a8[2 * i + 1]!));
    expect([...next(Int32Array, 4)]).toEqual(
      lanes(4, (i) => a16[2 * i]! * b16[2 * i]! + a16[2 * i + 1]! * b16[2 * i + 1]!),
    );
    expect([...next(Int32Array, 4)]).toEqual(lanes(4, (i) => a16[2 * i]! + a16[2 * i + 1]!));
    expect([...next(Int16Array, 8)]).toEqual(lanes(8, (i) => a8[8 + i]!));
    expect([...next(Int8Array, 16)]).toEqual(lanes(16, (i) => clamp(i < 8 ? a16[i]! : b16[i - 8]!)));
    expect([...next(Float32Array, 4)]).toEqual(lanes(4, (i) => Math.fround(a32[i]!)));
    expect([...next(Int8Array, 16)]).toEqual(lanes(16, (i) => (i & 1 ? a8[i]! : b8[i]!)));
    expect([...next(Int16Array, 8)]).toEqual(lanes(8, (i) => a8[4 + i]!));
    expect([...next(Int8Array, 16)]).toEqual(lanes(16, (i) => b8[4 + (i & 3)]!));
    expect([...next(Int32Array, 4)]).toEqual([-3, -3, -3, -3]);
    expect([...next(Int8Array, 16)]).toEqual([...a8]);
    expect(new Int32Array(memory.buffer, at, 1)[0]).toBe(a32[2]);
    at += 16;
    expect([...next(Int32Array, 4)]).toEqual([a32[0], a32[1], a32[2], new Int32Array(b8.buffer)[0]]);
  });

  it('every one of the table is accepted by the validator with operands of its types', () => {
    const zero = v128.zero();
    const candidates: readonly unknown[][] = [
      [zero, zero],
      [zero, 0],
      [zero],
      [0, 0],
      [0, 0, 0],
      [zero, zero, zero],
      [0, zero, 0],
      [zero, 0, 0],
      [zero, zero, Array(16).fill(0)],
      [0, zero, zero],
      [Array(16).fill(0)],
      [],
    ];
    const relaxed = WebAssembly.validate(probe((f) => void f.v128('x', i8x16.relaxedSwizzle(zero, zero))));
    let checked = 0;
    for (const [space, entries] of Object.entries(table)) {
      if (typeof entries !== 'object' || space === 'PREFIX') continue;
      for (const [name, op] of Object.entries(entries)) {
        if (name.startsWith('relaxed') && !relaxed) continue;
        const valid = candidates.some((args) => {
          try {
            return WebAssembly.validate(probe((f) => f.drop((op as (...a: unknown[]) => never)(...args))));
          } catch {
            return false;
          }
        });
        expect(valid, `${space}.${name}`).toBe(true);
        checked++;
      }
    }
    expect(checked).toBeGreaterThan(250);
  });
});

function probe(body: (f: Parameters<Parameters<ModuleBuilder['function']>[2]>[0]) => void): Uint8Array<ArrayBuffer> {
  const m = new ModuleBuilder({ shared: false });
  m.function('probe', {}, (f) => body(f));
  return m.finish();
}

describe('control flow', () => {
  it('loops, branches, early exits and calls', () => {
    const m = new ModuleBuilder({ shared: false });
    const log = m.importFunction('log', ['i32']);
    const square = m.function('square', { x: 'i32' }, (f, { x }) => f.return(i32.mul(x, x)), { result: 'i32' });
    m.function(
      'sumOfSquares',
      { n: 'i32', limit: 'i32' },
      (f, { n, limit }) => {
        const sum = f.i32('sum');
        const k = f.i32('k');
        f.block((exit) => {
          f.for(k, 0, n, 1, () => {
            sum.inc(f.callFor('i32', square, k));
            f.if(
              i32.gtU(sum, limit),
              () => f.branch(exit),
              () => f.call(log, k),
            );
          });
        });
        f.return(sum);
      },
      { export: true, result: 'i32' },
    );
    m.function(
      'countdown',
      { n: 'i32' },
      (f, { n }) => {
        const steps = f.i32('steps');
        f.doWhile(() => steps.inc(1), n.tee(i32.sub(n, 1)));
        f.loop((again) => {
          steps.inc(100);
          f.branchIf(again, i32.ltU(steps, 300));
        });
        f.return(steps);
      },
      { export: true, result: 'i32' },
    );
    const seen: number[] = [];
    const { exports } = instantiate(m, 1, { log: (k: number) => seen.push(k) });
    expect(exports.sumOfSquares!(5, 1000)).toBe(30);
    expect(seen).toEqual([0, 1, 2, 3, 4]);
    expect(exports.sumOfSquares!(0, 1000)).toBe(0);
    expect(exports.sumOfSquares!(100, 6)).toBe(14);
    expect(exports.countdown!(4)).toBe(304);
  });

  it('reaches the functions of another module through a shared table', () => {
    const first = new ModuleBuilder({ shared: false });
    const type = first.signature('double', ['i32']);
    first.defineTable(4);
    first.function('dispatch', { k: 'i32', x: 'i32' }, (f, { k, x }) => f.callIndirect(type, k, x), { export: true });
    const { memory, exports } = instantiate(first);
    const second = new ModuleBuilder({ shared: false });
    second.importTable(4);
    const store = (by: number) =>
      second.function(`times${by}`, { x: 'i32' }, (f, { x }) => f.i32Store(0, i32.mul(x, by), 8));
    second.fillTable(2, [store(2), store(3)]);
    new WebAssembly.Instance(new WebAssembly.Module(second.finish()), {
      env: { memory, table: (exports as unknown as { table: WebAssembly.Table }).table },
    });
    exports.dispatch!(2, 21);
    expect(new Int32Array(memory.buffer)[2]).toBe(42);
    exports.dispatch!(3, 21);
    expect(new Int32Array(memory.buffer)[2]).toBe(63);
  });

  it('has atomics and bulk memory operations', () => {
    const m = new ModuleBuilder({ shared: true });
    m.function(
      'run',
      {},
      (f) => {
        f.atomicStore(0, 5);
        f.drop(i32.atomicAdd(0, 37));
        f.i32Store(16, i32.atomicCmpxchg(0, 42, 43));
        f.atomicFence();
        f.atomicNotify(0, 1);
        f.atomicWait32(0, 0);
        f.memoryFill(32, 7, 8);
        f.memoryCopy(40, 32, 4);
      },
      { export: true },
    );
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 65_536, shared: true });
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory } });
    (exports as Record<string, () => void>).run!();
    const words = new Int32Array(memory.buffer);
    expect([words[0], words[4]]).toEqual([43, 42]);
    expect([...new Uint8Array(memory.buffer, 32, 16)]).toEqual([...Array(12).fill(7), 0, 0, 0, 0]);
  });
});

describe('ConstantPool', () => {
  it('shares equal constants, and kernels load them', () => {
    const pool = new ConstantPool(32, 48);
    const m = new ModuleBuilder({ shared: false, pool });
    m.function(
      'run',
      {},
      (f) => {
        f.v128Store(0, i8x16.add(f.pooled.i8x16(15), f.pooled.f32x4(0)), 256);
        f.v128Store(0, f.pooled.i8x16(15), 272);
      },
      { export: true },
    );
    expect(pool.i32x4(0x0f0f0f0f)).toBe(32);
    expect(pool.i16x8(-1)).toBe(64);
    expect(() => pool.i16x8(-2)).toThrow(/more than 3/);
    const { memory, exports } = instantiate(m);
    pool.write(memory.buffer);
    exports.run!();
    expect([...new Uint8Array(memory.buffer, 256, 32)]).toEqual(Array(32).fill(15));
  });
});

describe('mistakes', () => {
  it('are reported while building', () => {
    const m = new ModuleBuilder({ shared: false });
    const callee = m.function('callee', { x: 'i32' }, (f) => f.return(f32.const(1)), { result: 'f32' });
    expect(() => m.importFunction('late', [])).toThrow(/before the first function/);
    m.function('caller', {}, (f) => {
      expect(() => f.call(callee)).toThrow('callee: expected 1 arguments, got 0');
      expect(() => f.callFor('i32', callee, 1)).toThrow('returns f32');
      expect(() => f.pooled.i8x16(1)).toThrow(/without a constant pool/);
    });
  });
});
