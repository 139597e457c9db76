import { bf16ToF32, f32ToBf16, f32ToF16, type StorageTypeName, storageType } from '../core/dtype.ts';
import { e4m3, e4m3Code, e5m2Code, e8m0, smallFloat } from './codes.ts';
import { half, type QuantFormat, u16 } from './format.ts';

// One number per block. Everything becomes f32, rounded to nearest where the stored type is wider.

type Read = (view: DataView, at: number) => number;

function dense(name: StorageTypeName, read: Read): QuantFormat {
  const type = storageType(name);
  return {
    type,
    unpack(bytes, at, out, outAt, blocks) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, blocks * type.blockBytes);
      for (let i = 0, p = 0; i < blocks; i++, p += type.blockBytes) out[outAt + i] = read(view, p);
    },
  };
}

/** A one-byte type, decoded through a table of its 256 values. */
function byteTable(
  name: StorageTypeName,
  value: (code: number) => number,
  encode?: (value: number) => number,
): QuantFormat {
  const table = Float32Array.from({ length: 256 }, (_, code) => value(code));
  return {
    type: storageType(name),
    ...(encode && {
      nonFinite: true,
      pack(x, out) {
        for (let i = 0; i < x.length; i++) out[i] = encode(x[i]!);
      },
    }),
    unpack(bytes, at, out, outAt, blocks) {
      for (let i = 0; i < blocks; i++) out[outAt + i] = table[bytes[at + i]!]!;
    },
  };
}

/** E5M2: the top exponent holds infinities and NaN. */
function e5m2(code: number): number {
  const magnitude = code & 127;
  if (magnitude > 0x7c) return Number.NaN;
  return magnitude === 0x7c
    ? code & 128
      ? -Number.POSITIVE_INFINITY
      : Number.POSITIVE_INFINITY
    : smallFloat(code, 2, 15);
}

const f16: QuantFormat = {
  type: storageType('F16'),
  nonFinite: true,
  unpack(bytes, at, out, outAt, blocks) {
    for (let i = 0; i < blocks; i++) out[outAt + i] = half(bytes, at + i * 2);
  },
  pack(x, out) {
    for (let i = 0; i < x.length; i++) {
      const bits = f32ToF16(x[i]!);
      out[i * 2] = bits;
      out[i * 2 + 1] = bits >> 8;
    }
  },
};

const bf16: QuantFormat = {
  type: storageType('BF16'),
  nonFinite: true,
  unpack(bytes, at, out, outAt, blocks) {
    for (let i = 0; i < blocks; i++) out[outAt + i] = bf16ToF32(u16(bytes, at + i * 2));
  },
  pack(x, out) {
    for (let i = 0; i < x.length; i++) {
      const bits = f32ToBf16(x[i]!);
      out[i * 2] = bits;
      out[i * 2 + 1] = bits >> 8;
    }
  },
};

const f32: QuantFormat = {
  ...dense('F32', (view, at) => view.getFloat32(at, true)),
  nonFinite: true,
  pack(x, out) {
    const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
    for (let i = 0; i < x.length; i++) view.setFloat32(i * 4, x[i]!, true);
  },
};

/** The unblocked types of checkpoints. */
export const denseFormats: readonly QuantFormat[] = [
  f32,
  f16,
  bf16,
  dense('F64', (view, at) => view.getFloat64(at, true)),
  dense('I8', (view, at) => view.getInt8(at)),
  dense('I16', (view, at) => view.getInt16(at, true)),
  dense('I32', (view, at) => view.getInt32(at, true)),
  dense('I64', (view, at) => Number(view.getBigInt64(at, true))),
  dense('U8', (view, at) => view.getUint8(at)),
  dense('U16', (view, at) => view.getUint16(at, true)),
  dense('U32', (view, at) => view.getUint32(at, true)),
  dense('U64', (view, at) => Number(view.getBigUint64(at, true))),
  byteTable('BOOL', (code) => (code ? 1 : 0)),
  byteTable('F8_E4M3', e4m3, e4m3Code),
  byteTable('F8_E5M2', e5m2, e5m2Code),
  byteTable('F8_E8M0', e8m0),
];
