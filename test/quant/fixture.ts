import { readFileSync } from 'node:fs';

/** A safetensors fixture: tensors by name, F32 as floats and everything else as bytes. */
export function fixture(file: string) {
  const data = readFileSync(new URL(`../fixtures/quant/${file}`, import.meta.url));
  const headerLength = Number(data.readBigUInt64LE(0));
  const header = JSON.parse(data.toString('utf8', 8, 8 + headerLength)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const slice = (name: string) => {
    const entry = header[name];
    if (!entry) throw new Error(`${file} has no tensor ${name}`);
    const [start, end] = entry.data_offsets;
    return {
      shape: entry.shape,
      bytes: Uint8Array.from(data.subarray(8 + headerLength + start, 8 + headerLength + end)),
    };
  };
  return {
    names: Object.keys(header),
    has: (name: string) => name in header,
    bytes: (name: string) => slice(name).bytes,
    floats: (name: string) => new Float32Array(slice(name).bytes.buffer),
    shape: (name: string) => slice(name).shape,
  };
}

/** The bits of floats, with −0 as +0: the sign of a zero carries no information here. */
export function bits(x: Float32Array): Uint32Array {
  return new Uint32Array(x.map((v) => (v === 0 ? 0 : v)).buffer);
}
