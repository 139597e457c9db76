/** What an adapter reaches at best through WebGPU: bytes read a second, multiply-adds a second. */
import type { GpuDevice } from '../src/backends/webgpu/device.ts';
import { Kernel, type KernelSource } from '../src/backends/webgpu/kernel.ts';
import { Recorder } from '../src/backends/webgpu/recorder.ts';

const GROUPS = 4096;
const LANES = 256;
const ROUNDS = 1024;

const readSource = (vectors: number): KernelSource => ({
  label: 'read',
  reads: [['x', 'vec4<u32>']],
  writes: [['out', 'u32']],
  numbers: [['n', 'u32']],
  workgroup: [LANES, 1, 1],
  body: `var sum = vec4<u32>(0u);
for (var i = wid.x * ${LANES}u + li; i < p.n; i += ${GROUPS * LANES}u) { sum ^= x(i); }
if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == ${vectors}u) { set_out(0u, sum.x); }`,
});

/** Eight chains that do not wait for one another. */
const mathSource = (half: boolean): KernelSource => ({
  label: 'multiply-add',
  reads: [],
  writes: [['out', 'f32']],
  numbers: [['factor', 'f32']],
  workgroup: [LANES, 1, 1],
  ...(half ? { extensions: ['f16'] as const } : {}),
  body: `let a = vec4<${half ? 'f16' : 'f32'}>(${half ? 'f16' : 'f32'}(p.factor));
${Array.from({ length: 8 }, (_, i) => `var s${i} = a * ${half ? 'f16' : 'f32'}(li + ${i}u);`).join('\n')}
for (var i = 0u; i < ${ROUNDS}u; i++) {
${Array.from({ length: 8 }, (_, i) => `s${i} = fma(s${i}, a, a);`).join(' ')}
}
let sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7;
if (f32(sum.x + sum.y + sum.z + sum.w) == 12345.0) { set_out(0u, 1.0); }`,
});

export interface Peaks {
  readonly bytesPerSecond: number;
  readonly f32PerSecond: number;
  /** Without 16-bit floats, as with 32-bit ones. */
  readonly f16PerSecond: number;
}

/** Medians of a few runs; multiply-adds count once. */
export async function peaksOf(gpu: GpuDevice): Promise<Peaks> {
  const recorder = new Recorder(gpu);
  const out = gpu.create(16, 'result');
  const bytes =
    Math.floor(Math.min(gpu.facts.maxBinding, gpu.facts.maxBuffer, gpu.facts.software ? 2 ** 27 : 2 ** 30) / 16) * 16;
  const big = gpu.create(bytes, 'bandwidth');
  const read = new Kernel(gpu, readSource(bytes / 16));
  const time = async (dispatch: () => void): Promise<number> => {
    const times: number[] = [];
    for (let i = 0; i < 5; i++) {
      const start = performance.now();
      dispatch();
      recorder.endStep();
      await gpu.device.queue.onSubmittedWorkDone();
      times.push((performance.now() - start) / 1000);
    }
    return times.slice(1).sort((a, b) => a - b)[1] as number;
  };
  // Several in one submission: the way to the device and back counts for little.
  const repeats = gpu.facts.software ? 1 : 16;
  const readSeconds = await time(() => {
    for (let i = 0; i < repeats; i++)
      recorder
        .start(read)
        .bindStorage(big)
        .bindStorage(out)
        .u(bytes / 16)
        .dispatch(GROUPS);
  });
  const math = async (half: boolean): Promise<number> => {
    const kernel = new Kernel(gpu, mathSource(half));
    const groups = gpu.facts.software ? 16 : GROUPS;
    const seconds = await time(() => {
      for (let i = 0; i < repeats; i++) recorder.start(kernel).bindStorage(out).f(0.5).dispatch(groups);
    });
    return (repeats * groups * LANES * ROUNDS * 8 * 4) / seconds;
  };
  const f32PerSecond = await math(false);
  const f16PerSecond = gpu.facts.f16 ? await math(true) : f32PerSecond;
  gpu.destroy(big);
  gpu.destroy(out);
  return { bytesPerSecond: (repeats * bytes) / readSeconds, f32PerSecond, f16PerSecond };
}
