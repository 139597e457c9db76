/** The WebGPU back-end for tests: software adapters will do. */
import { createWebGpuBackend, type WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import { messageOf } from '../../src/core/errors.ts';
import { nodeGpu } from '../../src/platform/nodeGpu.ts';

/** A back-end whose products are exact to 32-bit floats on every adapter, or the reason why there is none here. */
export async function openWebGpu(): Promise<WebGpuBackend | string> {
  try {
    return await createWebGpuBackend({ gpu: (await nodeGpu()) as GPU | undefined, strict: true });
  } catch (error) {
    return messageOf(error);
  }
}
