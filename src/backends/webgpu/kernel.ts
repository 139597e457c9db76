/** A kernel: WGSL with named operands and numbers, and the pipelines made from it. */
import type { GpuDevice } from './device.ts';
import { COMPUTE_STAGE } from './device.ts';
import type { GpuStorage } from './storage.ts';

export type Element = 'f32' | 'i32' | 'u32' | 'vec2<u32>' | 'vec4<f32>' | 'vec4<u32>';

const ELEMENT_WORDS: Readonly<Record<Element, number>> = {
  f32: 1,
  i32: 1,
  u32: 1,
  'vec2<u32>': 2,
  'vec4<f32>': 4,
  'vec4<u32>': 4,
};

/**
 * A kernel as it is written. For an operand `x` the body calls `x(i)`, and for one it may write `set_x(i, value)`;
 * positions count elements from the start of the tensor. Numbers are `p.name`. In `main` there are `wid` (workgroup),
 * `nwg` (how many), `li` (lane) and `lid` (lane by axis).
 */
export interface KernelSource {
  readonly label: string;
  /** Operands that are only read, in the order in which they are bound. */
  readonly reads: readonly (readonly [name: string, element: Element])[];
  /** Operands that are written, bound behind the others. */
  readonly writes: readonly (readonly [name: string, element: Element])[];
  readonly numbers: readonly (readonly [name: string, type: 'u32' | 'i32' | 'f32'])[];
  /** Lanes of a workgroup, by axis. */
  readonly workgroup: readonly [number, number, number];
  /** Functions and workgroup variables outside of `main`. */
  readonly declarations?: string;
  readonly body: string;
  readonly extensions?: readonly ('f16' | 'subgroups')[];
  /** Features of the language that it needs. */
  readonly language?: readonly 'packed_4x8_integer_dot_product'[];
}

/** Most words of numbers, those for the places of operands included. */
export const MAX_NUMBERS = 64;

/** One way of binding a kernel: operands of one buffer share its binding. */
export interface Variant {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** Numbers of the operands that have a binding, in order. */
  readonly bound: readonly number[];
  readonly numberBytes: number;
  /** Bind groups of the last steps, by how often the variant had run in the step. */
  readonly groups: BoundGroup[][];
  /** Runs in the current step. */
  uses: number;
}

export interface BoundGroup {
  readonly group: GPUBindGroup;
  readonly storages: readonly GpuStorage[];
}

export class Kernel {
  readonly source: KernelSource;
  readonly operands: readonly (readonly [name: string, element: Element])[];
  /** Words of one element, by operand. */
  readonly words: readonly number[];
  readonly #gpu: GpuDevice;
  readonly #variants = new Map<number, Variant>();

  constructor(gpu: GpuDevice, source: KernelSource) {
    this.#gpu = gpu;
    this.source = source;
    this.operands = [...source.reads, ...source.writes];
    this.words = this.operands.map(([, element]) => ELEMENT_WORDS[element]);
  }

  /**
   * `shared`: for each operand the number of an earlier-bound one in the same buffer plus one, or 0, as the digits of a
   * number to the base `MAX_OPERANDS`.
   */
  variant(shared: number): Variant {
    let found = this.#variants.get(shared);
    if (found === undefined) {
      found = this.#build(shared, (descriptor) => this.#gpu.device.createComputePipeline(descriptor));
      this.#variants.set(shared, found);
    }
    return found;
  }

  /** Compiles the plain variant without holding up the caller's thread. */
  async prepare(): Promise<void> {
    if (this.#variants.has(0)) return;
    const holder: { descriptor?: GPUComputePipelineDescriptor } = {};
    const variant = this.#build(0, (descriptor) => {
      holder.descriptor = descriptor;
      return undefined as unknown as GPUComputePipeline;
    });
    const pipeline = await this.#gpu.device.createComputePipelineAsync(
      holder.descriptor as GPUComputePipelineDescriptor,
    );
    if (!this.#variants.has(0)) this.#variants.set(0, { ...variant, pipeline });
  }

  #build(shared: number, compile: (descriptor: GPUComputePipelineDescriptor) => GPUComputePipeline): Variant {
    const { device } = this.#gpu;
    const { source, operands } = this;
    const reads = source.reads.length;
    const hosts = hostsOf(shared, operands.length);
    const bound = hosts.flatMap((host, i) => (host === i ? [i] : []));
    const entries: GPUBindGroupLayoutEntry[] = [
      { binding: 0, visibility: COMPUTE_STAGE, buffer: { type: 'uniform', hasDynamicOffset: true } },
      ...bound.map(
        (operand, i): GPUBindGroupLayoutEntry => ({
          binding: i + 1,
          visibility: COMPUTE_STAGE,
          buffer: { type: operand < reads ? 'read-only-storage' : 'storage' },
        }),
      ),
    ];
    const layout = device.createBindGroupLayout({ entries, label: source.label });
    const module = device.createShaderModule({ code: codeOf(source, hosts, bound), label: source.label });
    const pipeline = compile({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: 'main' },
      label: source.label,
    });
    const numberBytes = 16 * Math.ceil((operands.length + source.numbers.length) / 4);
    return { pipeline, layout, bound, numberBytes, groups: [], uses: 0 };
  }
}

/** One more than the most operands of a kernel. */
export const MAX_OPERANDS = 12;

/** For each operand the one whose binding it uses: itself, or the one it shares a buffer with. */
function hostsOf(shared: number, count: number): number[] {
  let rest = shared;
  return Array.from({ length: count }, (_, i) => {
    const digit = rest % MAX_OPERANDS;
    rest = Math.floor(rest / MAX_OPERANDS);
    return digit === 0 ? i : digit - 1;
  });
}

/** The whole module of one variant. */
function codeOf(source: KernelSource, hosts: readonly number[], bound: readonly number[]): string {
  const operands = [...source.reads, ...source.writes];
  const reads = source.reads.length;
  const numbers = [
    ...operands.map(([operand]) => `${operand}_at: u32`),
    ...source.numbers.map(([number, type]) => `${number}: ${type}`),
  ];
  const lines = [
    ...(source.extensions ?? []).map((extension) => `enable ${extension};`),
    ...(source.language ?? []).map((feature) => `requires ${feature};`),
    `struct Numbers { ${numbers.join(', ')} }`,
    '@group(0) @binding(0) var<uniform> p: Numbers;',
  ];
  bound.forEach((operand, i) => {
    const [operandName, element] = operands[operand] as readonly [string, Element];
    const access = operand < reads ? 'read' : 'read_write';
    lines.push(`@group(0) @binding(${i + 1}) var<storage, ${access}> ${operandName}_data: array<${element}>;`);
  });
  operands.forEach(([operand, element], i) => {
    const [host, stored] = operands[hosts[i] as number] as readonly [string, Element];
    const data = `${host}_data[p.${operand}_at + i]`;
    // Operands of one buffer may take its words for different things.
    const as = (type: Element, value: string) => (stored === element ? value : `bitcast<${type}>(${value})`);
    lines.push(`fn ${operand}(i: u32) -> ${element} { return ${as(element, data)}; }`);
    if (i >= reads) {
      lines.push(`fn set_${operand}(i: u32, value: ${element}) { ${data} = ${as(stored, 'value')}; }`);
    }
  });
  const subgroups = source.extensions?.includes('subgroups');
  const builtins = [
    '@builtin(workgroup_id) wid: vec3<u32>',
    '@builtin(num_workgroups) nwg: vec3<u32>',
    '@builtin(local_invocation_index) li: u32',
    '@builtin(local_invocation_id) lid: vec3<u32>',
    ...(subgroups ? ['@builtin(subgroup_size) sg_size: u32', '@builtin(subgroup_invocation_id) sg_lane: u32'] : []),
  ];
  return `${lines.join('\n')}
${source.declarations ?? ''}
@compute @workgroup_size(${source.workgroup.join(', ')})
fn main(${builtins.join(', ')}) {
${source.body}
}
`;
}
