import { afterEach, describe, expect, it, vi } from 'vitest';
import { CpuMemory } from '../../src/backends/cpu/memory.ts';
import { HEAP_BASE, PAGE_BYTES } from '../../src/backends/cpu/memoryMap.ts';

describe('CpuMemory', () => {
  afterEach(() => vi.restoreAllMocks());

  it.each([true, false])('grows with its heap and renews its views (shared: %s)', (shared) => {
    const memory = new CpuMemory({ shared });
    const before = memory.views;
    const address = memory.heap.allocate(40 << 20)!;
    expect(address).toBe(HEAP_BASE);
    expect(memory.views === before).toBe(false);
    expect(memory.views.u8.length).toBeGreaterThanOrEqual(address + (40 << 20));
    memory.views.u8[address + (40 << 20) - 1] = 7;
    const { views } = memory;
    memory.heap.free(address);
    expect(memory.heap.allocate(30 << 20)).toBe(address);
    expect(memory.views === views).toBe(true);
  });

  it('contents survive growth', () => {
    const memory = new CpuMemory({ shared: true });
    const address = memory.heap.allocate(1024)!;
    memory.views.f32[address / 4] = 1.5;
    memory.heap.allocate(64 << 20);
    expect(memory.views.f32[address / 4]).toBe(1.5);
  });

  it('takes less where the runtime refuses 4 GiB, and says when there is no more', () => {
    const { Memory } = WebAssembly;
    const most = 1024;
    vi.spyOn(WebAssembly, 'Memory').mockImplementation((descriptor) => {
      if (descriptor.maximum! > most) throw new RangeError('could not allocate memory');
      return new Memory(descriptor);
    });
    const memory = new CpuMemory({ shared: true });
    expect(memory.heap.allocate(most * PAGE_BYTES)).toBeUndefined();
    expect(memory.heap.allocate((most / 2) * PAGE_BYTES)).toBe(HEAP_BASE);
  });

  it('reports that there is no memory at all', () => {
    vi.spyOn(WebAssembly, 'Memory').mockImplementation(() => {
      throw new RangeError('could not allocate memory');
    });
    expect(() => new CpuMemory({ shared: true })).toThrow(/expected room for a WebAssembly memory/);
  });
});
