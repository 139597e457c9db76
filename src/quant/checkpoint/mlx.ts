import { FormatError, UnsupportedError } from '../../core/errors.ts';
import { isRecord } from '../../core/schema.ts';
import type { SourceTensor } from '../../core/weights.ts';
import { codesInto } from '../bitStream.ts';
import { CODE_VALUES, e8m0 } from '../codes.ts';
import { affine, bytesOf, integer, type Replaced, rowFloats, rowsOf } from './parts.ts';

/**
 * MLX: `x.weight` holds words of codes, a bit stream for each row; `x.scales` and, for affine codes, `x.biases` one number per
 * group. Modules may have settings of their own under their name.
 */
export function readMlx(r: Replaced, settings: Readonly<Record<string, unknown>>): void {
  for (const module of r.modules('.scales')) {
    if (r.source.get(`${module}.weight`)?.type.name !== 'U32') continue;
    const own = settings[module];
    const s = isRecord(own) ? { ...settings, ...own } : settings;
    addModule(r, module, s);
  }
}

function addModule(r: Replaced, module: string, settings: Readonly<Record<string, unknown>>): void {
  const weight = r.take(`${module}.weight`);
  const scales = r.take(`${module}.scales`);
  const mode = settings['mode'] ?? 'affine';
  const group = integer(settings, 'group_size', 64);
  const columns = (scales.shape.at(-1) ?? 0) * group;
  const bits = (32 * (weight.shape.at(-1) ?? 0)) / columns;
  if (!Number.isInteger(bits) || bits < 1 || bits > 8 || rowsOf(weight) !== rowsOf(scales)) {
    throw new FormatError(
      `${module}: expected words of whole groups of ${group}, got weight [${weight.shape}] and scales [${scales.shape}]`,
    );
  }
  const common = {
    name: weight.name,
    order: weight.order,
    shape: [...weight.shape.slice(0, -1), columns],
  };
  const codesOf = codeReader(weight, bits, columns);
  if (mode === 'affine') {
    const biases = r.take(`${module}.biases`);
    r.add({
      ...common,
      grouping: affine(`AFQ${bits}`, bits, columns, group),
      prepare: async () => async (first, rows, row, done) => {
        const [scale, bias] = await Promise.all([scales, biases].map((t) => rowFloats(t, first, rows)));
        await codesOf(first, rows, row.codes, (i) => {
          row.scales.set(scale!.subarray(i * row.scales.length, (i + 1) * row.scales.length));
          row.biases.set(bias!.subarray(i * row.biases.length, (i + 1) * row.biases.length));
          done();
        });
      },
    });
    return;
  }
  const kind = MICROSCALING[String(mode)];
  if (!kind || kind.bits !== bits) {
    throw new UnsupportedError(
      `${module}: quantization mode: expected affine, ${Object.keys(MICROSCALING).join(', ')}, got ${String(mode)} with ${bits} bits`,
      { feature: `MLX mode ${String(mode)}` },
    );
  }
  r.add({
    ...common,
    grouping: { label: String(mode).toUpperCase(), code: kind.code, group, bias: false, indexed: false },
    prepare: async () => async (first, rows, row, done) => {
      const scale = await bytesOf(scales, first, rows);
      await codesOf(first, rows, row.codes, (i) => {
        for (let g = 0; g < row.scales.length; g++) row.scales[g] = kind.scale(scale[i * row.scales.length + g]!);
        done();
      });
    },
  });
}

const e4m3 = (code: number) => CODE_VALUES.e4m3[code]!;
const MICROSCALING: Readonly<
  Record<string, { readonly bits: number; readonly code: 'e2m1' | 'e4m3'; readonly scale: (code: number) => number }>
> = {
  mxfp4: { bits: 4, code: 'e2m1', scale: e8m0 },
  mxfp8: { bits: 8, code: 'e4m3', scale: e8m0 },
  nvfp4: { bits: 4, code: 'e2m1', scale: e4m3 },
};

function codeReader(weight: SourceTensor, bits: number, columns: number) {
  return async (first: number, rows: number, codes: Uint8Array, done: (row: number) => void): Promise<void> => {
    const bytes = await bytesOf(weight, first, rows);
    for (let i = 0; i < rows; i++) {
      const at = (i * columns * bits) / 8;
      codesInto(bytes, at, bits, codes, 0, columns);
      done(i);
    }
  };
}
