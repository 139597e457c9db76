/** Writes matrices the way other tools do, straight from the published layouts, and says what they stand for. */
import { f32ToF16 } from '../../src/core/dtype.ts';
import type { TensorData } from '../../src/core/io/safetensorsWrite.ts';
import { E2M1, e4m3, e4m3Code, FP4, NF4 } from '../../src/quant/codes.ts';
import { dequantize } from '../../src/quant/index.ts';
import { random } from '../cpu/support.ts';

export interface Packed {
  readonly tensors: Readonly<Record<string, TensorData>>;
  readonly values: Float32Array;
}

/** `x` is `[out, columns]`; `undefined` where the tool would leave a matrix of this size alone. */
export type PackMatrix = (module: string, x: Float32Array, out: number, columns: number) => Packed | undefined;

export interface Kind {
  readonly config: Readonly<Record<string, unknown>>;
  readonly pack: PackMatrix;
  /** Most bytes per weight that the CPU back-end may take for matrices of 64 columns or more. */
  readonly bytes: number;
  readonly label: string;
}

const f = Math.fround;
const i32 = (shape: number[], data: Int32Array): TensorData => ({ type: 'I32', shape, data });
const u8 = (shape: number[], data: Uint8Array): TensorData => ({ type: 'U8', shape, data });
const f32 = (shape: number[], data: Float32Array): TensorData => ({ type: 'F32', shape, data });
const f16 = (shape: number[], data: Float32Array): TensorData => ({
  type: 'F16',
  shape,
  data: Uint16Array.from(data, f32ToF16),
});
const asF16 = (v: number): number => dequantize('F16', new Uint8Array(Uint16Array.of(f32ToF16(v)).buffer), 1)[0]!;

/** Bit stream of codes in words. */
function streamed(codes: readonly number[], bits: number): Int32Array {
  const bytes = new Uint8Array(Math.ceil((codes.length * bits) / 32) * 4);
  codes.forEach((code, i) => {
    for (let b = 0; b < bits; b++) {
      const bit = i * bits + b;
      bytes[bit >> 3]! |= ((code >> b) & 1) << (bit & 7);
    }
  });
  return new Int32Array(bytes.buffer);
}

/** Scales (binary16), zeros and codes by group of columns; `groupOf` says which. */
function rounded(
  x: Float32Array,
  out: number,
  columns: number,
  bits: number,
  groups: number,
  groupOf: (k: number) => number,
) {
  const scales = new Float32Array(groups * out);
  const zeros = new Int32Array(groups * out);
  const codes = new Int32Array(out * columns);
  const values = new Float32Array(out * columns);
  const top = 2 ** bits - 1;
  for (let o = 0; o < out; o++) {
    for (let g = 0; g < groups; g++) {
      const members = Array.from({ length: columns }, (_, k) => k).filter((k) => groupOf(k) === g);
      const low = Math.min(0, ...members.map((k) => x[o * columns + k]!));
      const high = Math.max(0, ...members.map((k) => x[o * columns + k]!));
      const scale = asF16(Math.max((high - low) / top, 1e-4));
      const zero = Math.min(top, Math.max(0, Math.round(-low / scale)));
      scales[g * out + o] = scale;
      zeros[g * out + o] = zero;
      for (const k of members) {
        const code = Math.min(top, Math.max(0, Math.round(x[o * columns + k]! / scale) + zero));
        codes[o * columns + k] = code;
        values[o * columns + k] = f(scale * (code - zero));
      }
    }
  }
  return { scales, zeros, codes, values };
}

function gptq(bits: number, group: number, v2: boolean, activationOrder: boolean): PackMatrix {
  return (module, x, out, columns) => {
    const size = group < 0 ? columns : group;
    const groups = Math.ceil(columns / size);
    const order = Int32Array.from({ length: columns }, (_, k) => Math.floor(k / size));
    if (activationOrder) {
      const next = random(columns);
      for (let k = columns - 1; k > 0; k--) {
        const other = Math.floor(next() * (k + 1));
        [order[k], order[other]] = [order[other]!, order[k]!];
      }
    }
    const { scales, zeros, codes, values } = rounded(x, out, columns, bits, groups, (k) => order[k]!);
    const words = (columns * bits) / 32;
    if (!Number.isInteger(words) || (out * bits) % 32 !== 0) return undefined;
    const qweight = new Int32Array(words * out);
    for (let o = 0; o < out; o++) {
      streamed([...codes.subarray(o * columns, (o + 1) * columns)], bits).forEach((word, i) => {
        qweight[i * out + o] = word;
      });
    }
    const qzeros = Array.from({ length: groups }, (_, g) =>
      streamed(
        [...zeros.subarray(g * out, (g + 1) * out)].map((z) => (v2 ? z : (z + 2 ** bits - 1) % 2 ** bits)),
        bits,
      ),
    ).flatMap((row) => [...row]);
    return {
      tensors: {
        [`${module}.qweight`]: i32([words, out], qweight),
        [`${module}.qzeros`]: i32([groups, (out * bits) / 32], Int32Array.from(qzeros)),
        [`${module}.scales`]: f16([groups, out], scales),
        [`${module}.g_idx`]: i32([columns], order),
      },
      values,
    };
  };
}

const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7];
const awq: (group: number) => PackMatrix = (group) => (module, x, out, columns) => {
  const groups = columns / group;
  const { scales, zeros, codes, values } = rounded(x, out, columns, 4, groups, (k) => Math.floor(k / group));
  const words = (rows: number, at: (row: number, o: number) => number) =>
    Int32Array.from({ length: rows * (out / 8) }, (_, i) => {
      const [row, word] = [Math.floor(i / (out / 8)), i % (out / 8)];
      return AWQ_ORDER.reduce((n, column, place) => n | (at(row, word * 8 + column) << (4 * place)), 0);
    });
  return {
    tensors: {
      [`${module}.qweight`]: i32(
        [columns, out / 8],
        words(columns, (k, o) => codes[o * columns + k]!),
      ),
      [`${module}.qzeros`]: i32(
        [groups, out / 8],
        words(groups, (g, o) => zeros[g * out + o]!),
      ),
      [`${module}.scales`]: f16([groups, out], scales),
    },
    values,
  };
};

const e4m3Tensor = (shape: number[], codes: Uint8Array): TensorData => ({ type: 'F8_E4M3', shape, data: codes });

/** E4M3 under scales of `rows` × `width` blocks. */
function scaledFloats(x: Float32Array, out: number, columns: number, rows: number, width: number) {
  const across = Math.ceil(columns / width);
  const scales = new Float32Array(Math.ceil(out / rows) * across);
  x.forEach((v, i) => {
    const at = Math.floor(Math.floor(i / columns) / rows) * across + Math.floor((i % columns) / width);
    scales[at] = Math.max(scales[at]!, f(Math.abs(v) / 448));
  });
  const scaleOf = (i: number) =>
    scales[Math.floor(Math.floor(i / columns) / rows) * across + Math.floor((i % columns) / width)]!;
  const codes = Uint8Array.from(x, (v, i) => e4m3Code(f(v / scaleOf(i))));
  return { scales, codes, values: Float32Array.from(codes, (c, i) => f(e4m3(c) * scaleOf(i))), across };
}

function fp8(
  rows: number,
  width: number,
  suffix: string,
  shape: (down: number, across: number) => number[],
): PackMatrix {
  return (module, x, out, columns) => {
    const { scales, codes, values, across } = scaledFloats(x, out, columns, rows, width);
    return {
      tensors: {
        [`${module}.weight`]: e4m3Tensor([out, columns], codes),
        [`${module}.${suffix}`]: f32(shape(scales.length / across, across), scales),
        [`${module}.input_scale`]: f32([], Float32Array.of(1.5)),
      },
      values,
    };
  };
}

const bnb4: (kind: 'nf4' | 'fp4', block: number, nested: boolean) => PackMatrix =
  (kind, block, nested) => (module, x, out, columns) => {
    const book = kind === 'nf4' ? NF4 : FP4;
    const blocks = Math.ceil(x.length / block);
    const name = `${module}.weight`;
    const largest = Float32Array.from({ length: blocks }, (_, b) =>
      x.subarray(b * block, (b + 1) * block).reduce((m, v) => Math.max(m, Math.abs(v)), 0),
    );
    const state: Record<string, unknown> = {
      quant_type: kind,
      blocksize: block,
      dtype: 'bfloat16',
      shape: [out, columns],
    };
    const extra: Record<string, TensorData> = {};
    let maxima: Float32Array = largest;
    if (nested) {
      const offset = f(largest.reduce((a, b) => a + b, 0) / blocks);
      const nestedBook = Float32Array.from({ length: 256 }, (_, i) => (i - 127) / 128);
      const nestedMax = Float32Array.from({ length: Math.ceil(blocks / 256) }, (_, b) =>
        largest.subarray(b * 256, (b + 1) * 256).reduce((m, v) => Math.max(m, Math.abs(v - offset)), 1e-9),
      );
      const codes = Uint8Array.from(largest, (v, i) =>
        Math.min(255, Math.max(0, Math.round(((v - offset) / nestedMax[i >> 8]!) * 128) + 127)),
      );
      maxima = Float32Array.from(codes, (c, i) => f(nestedBook[c]! * nestedMax[i >> 8]!) + offset);
      Object.assign(state, { nested_blocksize: 256, nested_dtype: 'float32', nested_offset: offset });
      extra[`${name}.absmax`] = u8([blocks], codes);
      extra[`${name}.nested_absmax`] = f32([nestedMax.length], nestedMax);
      extra[`${name}.nested_quant_map`] = f32([256], nestedBook);
    } else extra[`${name}.absmax`] = f32([blocks], maxima);
    const codes = Uint8Array.from(x, (v, i) => {
      const target = v / largest[Math.floor(i / block)]!;
      return book.reduce((best, b, code) => (Math.abs(b - target) < Math.abs(book[best]! - target) ? code : best), 0);
    });
    const bytes = Uint8Array.from({ length: x.length / 2 }, (_, i) => (codes[2 * i]! << 4) | codes[2 * i + 1]!);
    const json = new TextEncoder().encode(JSON.stringify(state));
    return {
      tensors: {
        ...extra,
        [name]: u8([bytes.length, 1], bytes),
        [`${name}.quant_map`]: f32([16], book),
        [`${name}.quant_state.bitsandbytes__${kind}`]: u8([json.length], json),
      },
      values: Float32Array.from(codes, (c, i) => book[c]! * maxima[Math.floor(i / block)]!),
    };
  };

const bnb8: PackMatrix = (module, x, out, columns) => {
  const scb = Float32Array.from({ length: out }, (_, o) =>
    x.subarray(o * columns, (o + 1) * columns).reduce((m, v) => Math.max(m, Math.abs(v)), 0),
  );
  const codes = Int8Array.from(x, (v, i) => Math.round((v * 127) / scb[Math.floor(i / columns)]!));
  return {
    tensors: {
      [`${module}.weight`]: { type: 'I8', shape: [out, columns], data: codes },
      [`${module}.SCB`]: f32([out], scb),
      [`${module}.weight_format`]: u8([], Uint8Array.of(0)),
    },
    values: Float32Array.from(codes, (c, i) => c * f(scb[Math.floor(i / columns)]! / 127)),
  };
};

const mlx: (bits: number, group: number) => PackMatrix = (bits, group) => (module, x, out, columns) => {
  if (columns % group !== 0) return undefined;
  const groups = columns / group;
  const { scales, zeros, codes, values } = rounded(x, out, columns, bits, groups, (k) => Math.floor(k / group));
  const byRow = (at: (o: number, g: number) => number) =>
    Float32Array.from({ length: out * groups }, (_, i) => at(Math.floor(i / groups), i % groups));
  const scaleOf = (o: number, g: number) => scales[g * out + o]!;
  const words = Array.from({ length: out }, (_, o) => [
    ...streamed([...codes.subarray(o * columns, (o + 1) * columns)], bits),
  ]).flat();
  return {
    tensors: {
      [`${module}.weight`]: { type: 'U32', shape: [out, (columns * bits) / 32], data: Uint32Array.from(words) },
      [`${module}.scales`]: f16([out, groups], byRow(scaleOf)),
      [`${module}.biases`]: f32(
        [out, groups],
        byRow((o, g) => -zeros[g * out + o]! * scaleOf(o, g)),
      ),
    },
    values,
  };
};

/** Integers in words, as many as fit whole, with half of the range added. */
const packed: (bits: number, group: number, symmetric: boolean, order?: boolean) => PackMatrix =
  (bits, group, symmetric, order) => (module, x, out, columns) => {
    const size = group < 0 ? columns : group;
    const groups = Math.ceil(columns / size);
    const index = Int32Array.from({ length: columns }, (_, k) => (order ? (k * 5) % groups : Math.floor(k / size)));
    const half = 2 ** (bits - 1);
    let { scales, zeros, codes, values } = rounded(x, out, columns, bits, groups, (k) => index[k]!);
    if (symmetric) {
      zeros = zeros.map(() => half);
      values = values.map((_, i) =>
        f(scales[index[i % columns]! * out + Math.floor(i / columns)]! * (codes[i]! - half)),
      );
    }
    const perWord = Math.floor(32 / bits);
    const words = (length: number, at: (i: number) => number) =>
      Int32Array.from({ length: Math.ceil(length / perWord) }, (_, w) => {
        let word = 0;
        for (let i = 0; i < perWord && w * perWord + i < length; i++) word |= at(w * perWord + i) << (bits * i);
        return word;
      });
    const rows = Array.from({ length: out }, (_, o) => [...words(columns, (k) => codes[o * columns + k]!)]).flat();
    const scaleRows = Float32Array.from(
      { length: out * groups },
      (_, i) => scales[(i % groups) * out + Math.floor(i / groups)]!,
    );
    const zeroColumns = Array.from({ length: groups }, (_, g) => words(out, (o) => zeros[g * out + o]!));
    const zeroWords = Int32Array.from(
      Array.from({ length: Math.ceil(out / perWord) }, (_, w) => zeroColumns.map((c) => c[w]!)).flat(),
    );
    return {
      tensors: {
        [`${module}.weight_packed`]: i32([out, Math.ceil(columns / perWord)], Int32Array.from(rows)),
        [`${module}.weight_scale`]: f16([out, groups], scaleRows),
        [`${module}.weight_shape`]: { type: 'I64', shape: [2], data: BigInt64Array.of(BigInt(out), BigInt(columns)) },
        ...(order ? { [`${module}.weight_g_idx`]: i32([columns], index) } : {}),
        ...(symmetric ? {} : { [`${module}.weight_zero_point`]: i32([Math.ceil(out / perWord), groups], zeroWords) }),
      },
      values,
    };
  };

const nvfp4: PackMatrix = (module, x, out, columns) => {
  const divisor = f((448 * 6) / x.reduce((m, v) => Math.max(m, Math.abs(v)), 0));
  const across = columns / 16;
  const scales = Uint8Array.from({ length: out * across }, (_, i) => {
    const largest = x.subarray(i * 16, i * 16 + 16).reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    return e4m3Code((largest / 6) * divisor);
  });
  const scaleOf = (i: number) => f(e4m3(scales[i >> 4]!) / divisor);
  const codes = Uint8Array.from(x, (v, i) =>
    E2M1.reduce((best, b, c) => (Math.abs(b * scaleOf(i) - v) < Math.abs(E2M1[best]! * scaleOf(i) - v) ? c : best), 0),
  );
  return {
    tensors: {
      [`${module}.weight_packed`]: u8(
        [out, columns / 2],
        Uint8Array.from({ length: x.length / 2 }, (_, i) => codes[2 * i]! | (codes[2 * i + 1]! << 4)),
      ),
      [`${module}.weight_scale`]: e4m3Tensor([out, across], scales),
      [`${module}.weight_global_scale`]: f32([1], Float32Array.of(divisor)),
    },
    values: Float32Array.from(codes, (c, i) => E2M1[c]! * scaleOf(i)),
  };
};

const signedBytes: (zeros: boolean) => PackMatrix = (withZeros) => (module, x, out, columns) => {
  const scales = Float32Array.from({ length: out }, (_, o) =>
    f(x.subarray(o * columns, (o + 1) * columns).reduce((m, v) => Math.max(m, Math.abs(v)), 0) / 120),
  );
  const zeros = Int8Array.from({ length: out }, (_, o) => (withZeros ? (o % 13) - 6 : 0));
  const row = (i: number) => Math.floor(i / columns);
  const codes = Int8Array.from(x, (v, i) => Math.round(v / scales[row(i)]!) + zeros[row(i)]!);
  return {
    tensors: {
      [`${module}.weight`]: { type: 'I8', shape: [out, columns], data: codes },
      [`${module}.weight_scale`]: f32([out, 1], scales),
      ...(withZeros ? { [`${module}.weight_zero_point`]: { type: 'I8', shape: [out, 1], data: zeros } } : {}),
    },
    values: Float32Array.from(codes, (c, i) => f((c - zeros[row(i)]!) * scales[row(i)]!)),
  };
};

/** Groups are rows (axis 1) or columns (axis 0) of a table. */
const hqq: (bits: number, group: number, axis: 0 | 1) => PackMatrix =
  (bits, group, axis) => (module, x, out, columns) => {
    if (axis === 1 && columns % group !== 0) return undefined;
    const groups = x.length / group;
    const width = axis === 1 ? group : groups;
    const groupOf = (i: number) => (axis === 1 ? Math.floor(i / group) : i % groups);
    const top = 2 ** bits - 1;
    const [low, high] = [new Float32Array(groups).fill(Infinity), new Float32Array(groups).fill(-Infinity)];
    x.forEach((v, i) => {
      low[groupOf(i)] = Math.min(low[groupOf(i)]!, v);
      high[groupOf(i)] = Math.max(high[groupOf(i)]!, v);
    });
    const scales = low.map((v, g) => (high[g]! - v) / top);
    const zeros = low.map((v, g) => -v / scales[g]!);
    const codes = Uint8Array.from(x, (v, i) =>
      Math.min(top, Math.max(0, Math.round(v / scales[groupOf(i)]! + zeros[groupOf(i)]!))),
    );
    const run = (x.length / width) * (bits / 8);
    const bytes = new Uint8Array((x.length * bits) / 8);
    codes.forEach((code, i) => {
      const row = Math.floor(i / width);
      bytes[(row % run) * width + (i % width)]! |= code << (8 - bits * (Math.floor(row / run) + 1));
    });
    const numbers = axis === 1 ? [groups, 1] : [1, groups];
    const scalar = (v: number): TensorData => ({ type: 'I32', shape: [], data: Int32Array.of(v) });
    return {
      tensors: {
        [`${module}.W_q`]: u8([run, width], bytes),
        [`${module}.scale`]: f32(numbers, scales),
        [`${module}.zero`]: f32(numbers, zeros),
        [`${module}.shape`]: { type: 'I64', shape: [2], data: BigInt64Array.of(BigInt(out), BigInt(columns)) },
        [`${module}.nbits`]: scalar(bits),
        [`${module}.group_size`]: scalar(group),
        [`${module}.axis`]: scalar(axis),
      },
      values: Float32Array.from(codes, (c, i) => f(f(c - zeros[groupOf(i)]!) * scales[groupOf(i)]!)),
    };
  };

const quantization = (config: Record<string, unknown>) => ({ quantization_config: config });
const compressed = (format: string, weights: Record<string, unknown>) =>
  quantization({
    quant_method: 'compressed-tensors',
    format,
    config_groups: { group_0: { targets: ['Linear'], weights } },
    ignore: ['lm_head'],
  });

/** Every kind of checkpoint that can be read, by name. */
export const KINDS: Readonly<Record<string, Kind>> = {
  ...Object.fromEntries(
    (
      [
        [4, 32, false, false],
        [4, 32, true, false],
        [4, 16, false, true],
        [4, -1, false, false],
        [3, 32, false, true],
        [2, 32, false, false],
        [8, 64, false, false],
        [8, 32, true, true],
      ] as const
    ).map(([bits, group, v2, order]) => {
      const config = {
        quant_method: 'gptq',
        bits,
        group_size: group,
        desc_act: order,
        checkpoint_format: v2 ? 'gptq_v2' : 'gptq',
      };
      const kind: Kind = {
        config: quantization(config),
        pack: gptq(bits, group, v2, order),
        bytes: bits === 8 ? 2 : 1.6,
        label: `GPTQ${bits}`,
      };
      return [
        `GPTQ ${v2 ? 'v2 ' : ''}of ${bits} bits, groups of ${group}${order ? ', by importance' : ''}`,
        kind,
      ] as const;
    }),
  ),
  AWQ: {
    config: quantization({ quant_method: 'awq', bits: 4, group_size: 16, zero_point: true, version: 'gemm' }),
    ...{ pack: awq(16), bytes: 1.1, label: 'AWQ4' },
  },
  'FP8 in blocks': {
    config: quantization({
      quant_method: 'fp8',
      fmt: 'e4m3',
      weight_block_size: [48, 32],
      activation_scheme: 'dynamic',
    }),
    ...{ pack: fp8(48, 32, 'weight_scale_inv', (d, a) => [d, a]), bytes: 1.2, label: 'FP8' },
  },
  'FP8 in large blocks': {
    config: quantization({ quant_method: 'fp8', weight_block_size: [128, 128] }),
    ...{ pack: fp8(128, 128, 'weight_scale_inv', (d, a) => [d, a]), bytes: 1.1, label: 'FP8' },
  },
  'FP8 under one scale': {
    config: quantization({ quant_method: 'fp8', activation_scheme: 'static' }),
    ...{ pack: fp8(1e6, 1e6, 'weight_scale', () => []), bytes: 1.1, label: 'FP8' },
  },
  'FP8 by rows': {
    config: quantization({ quant_method: 'fbgemm_fp8', activation_scale_ub: 1200 }),
    ...{ pack: fp8(1, 1e6, 'weight_scale', (d) => [d, 1]), bytes: 1.1, label: 'FP8' },
  },
  NF4: {
    config: quantization({ quant_method: 'bitsandbytes', load_in_4bit: true, bnb_4bit_quant_type: 'nf4' }),
    ...{ pack: bnb4('nf4', 64, false), bytes: 0.8, label: 'NF4' },
  },
  'NF4 with nested maxima': {
    config: quantization({ load_in_4bit: true, bnb_4bit_use_double_quant: true }),
    ...{ pack: bnb4('nf4', 64, true), bytes: 0.8, label: 'NF4' },
  },
  FP4: {
    config: quantization({ quant_method: 'bitsandbytes', load_in_4bit: true, bnb_4bit_quant_type: 'fp4' }),
    ...{ pack: bnb4('fp4', 128, false), bytes: 0.8, label: 'FP4' },
  },
  'bytes of bitsandbytes': {
    config: quantization({ quant_method: 'bitsandbytes', load_in_8bit: true }),
    ...{ pack: bnb8, bytes: 1.1, label: 'INT8' },
  },
  ...Object.fromEntries(
    (
      [
        [2, 32],
        [3, 64],
        [4, 64],
        [6, 32],
        [8, 32],
      ] as const
    ).map(([bits, group]) => [
      `MLX of ${bits} bits`,
      {
        config: { quantization: { group_size: group, bits }, quantization_config: { group_size: group, bits } },
        ...{ pack: mlx(bits, group), bytes: bits > 4 ? 1.3 : 0.8, label: `AFQ${bits}` },
      },
    ]),
  ),
  'packed integers': {
    config: compressed('pack-quantized', {
      num_bits: 4,
      type: 'int',
      strategy: 'group',
      group_size: 16,
      symmetric: true,
    }),
    ...{ pack: packed(4, 16, true), bytes: 1.1, label: 'INT4' },
  },
  'packed integers with zeros': {
    config: compressed('pack-quantized', {
      num_bits: 4,
      type: 'int',
      strategy: 'group',
      group_size: 16,
      symmetric: false,
    }),
    ...{ pack: packed(4, 16, false), bytes: 1.1, label: 'INT4' },
  },
  'packed integers by importance': {
    config: compressed('pack-quantized', {
      num_bits: 8,
      strategy: 'group',
      group_size: 16,
      symmetric: true,
      actorder: 'group',
    }),
    ...{ pack: packed(8, 16, true, true), bytes: 2.2, label: 'INT8' },
  },
  'packed integers by rows': {
    config: compressed('pack-quantized', { num_bits: 3, strategy: 'channel', group_size: null, symmetric: true }),
    ...{ pack: packed(3, -1, true), bytes: 0.7, label: 'INT3' },
  },
  'compressed FP8 by rows': {
    config: compressed('float-quantized', { num_bits: 8, type: 'float', strategy: 'channel' }),
    ...{ pack: fp8(1, 1e6, 'weight_scale', (d) => [d, 1]), bytes: 1.1, label: 'FP8' },
  },
  'compressed FP8 in blocks': {
    config: compressed('float-quantized', { num_bits: 8, type: 'float', strategy: 'block', block_structure: [32, 32] }),
    ...{ pack: fp8(32, 32, 'weight_scale', (d, a) => [d, a]), bytes: 1.2, label: 'FP8' },
  },
  'compressed NVFP4': {
    config: compressed('nvfp4-pack-quantized', {
      num_bits: 4,
      type: 'float',
      strategy: 'tensor_group',
      group_size: 16,
    }),
    ...{ pack: nvfp4, bytes: 0.8, label: 'NVFP4' },
  },
  'signed bytes': {
    config: compressed('int-quantized', { num_bits: 8, type: 'int', strategy: 'channel', symmetric: true }),
    ...{ pack: signedBytes(false), bytes: 1.1, label: 'INT8' },
  },
  'signed bytes with zeros': {
    config: compressed('naive-quantized', { num_bits: 8, type: 'int', strategy: 'channel', symmetric: false }),
    ...{ pack: signedBytes(true), bytes: 1.2, label: 'INT8' },
  },
  ...Object.fromEntries(
    ([4, 8, 2, 1] as const).map((bits) => [
      `HQQ of ${bits} bits`,
      {
        config: quantization({
          quant_method: 'hqq',
          quant_config: { weight_quant_params: { nbits: bits, group_size: 16, axis: 1 } },
        }),
        ...{ pack: hqq(bits, 16, 1), bytes: bits > 4 ? 1.6 : 1.1, label: `HQQ${bits}` },
      },
    ]),
  ),
  'HQQ across rows': {
    config: quantization({ quant_method: 'hqq', quant_config: {} }),
    // Such matrices become floats.
    ...{ pack: hqq(4, 64, 0), bytes: 4.1, label: 'F32' },
  },
};
