/** Numbers as decimal digits, rounded exactly: half to even, as Python does. */

/** A finite number as mantissa × 2^exponent. */
function parts(value: number): { mantissa: bigint; exponent: number } {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const bits = view.getBigUint64(0);
  const biased = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & 0xfffffffffffffn;
  return biased === 0
    ? { mantissa: fraction, exponent: -1074 }
    : { mantissa: fraction | 0x10000000000000n, exponent: biased - 1075 };
}

/** |value| × 10^digits as an integer, half to even. `digits` may be negative. */
function scaled(value: number, digits: number): bigint {
  const { mantissa, exponent } = parts(Math.abs(value));
  let top = mantissa;
  let bottom = 1n;
  if (exponent >= 0) top <<= BigInt(exponent);
  else bottom <<= BigInt(-exponent);
  if (digits >= 0) top *= 10n ** BigInt(digits);
  else bottom *= 10n ** BigInt(-digits);
  const twice = (top % bottom) * 2n;
  const floor = top / bottom;
  return twice > bottom || (twice === bottom && floor % 2n === 1n) ? floor + 1n : floor;
}

/** `%.{digits}f` without a sign. */
export function fixed(value: number, digits: number): string {
  const all = scaled(value, digits)
    .toString()
    .padStart(digits + 1, '0');
  return digits === 0 ? all : `${all.slice(0, -digits)}.${all.slice(-digits)}`;
}

/** The digits of a number, the first one counting 10^exponent; `digits` of them. */
export function significant(value: number, digits: number): { digits: string; exponent: number } {
  if (value === 0) return { digits: '0'.repeat(digits), exponent: 0 };
  let exponent = Number(/e(.*)$/.exec(Math.abs(value).toExponential())?.[1]);
  let text = scaled(value, digits - 1 - exponent).toString();
  // The shortest text may round up to a power of ten, and so may this one.
  if (text.length < digits) text = scaled(value, digits - 1 - --exponent).toString();
  if (text.length > digits) text = scaled(value, digits - 1 - ++exponent).toString();
  return { digits: text, exponent };
}

/** An exponent as Python writes it: a sign and two digits at least. */
export function exponentText(exponent: number): string {
  return `e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
}

/** `round(value, digits)`. */
export function roundTo(value: number, digits: number): number {
  if (!Number.isFinite(value) || digits > 323) return value;
  if (digits < -308) return value * 0;
  const size = Number(`${scaled(value, digits)}e${-digits}`);
  return value < 0 || Object.is(value, -0) ? -size : size;
}

/** The shortest decimal that reads back as the same number, in Python's spelling: `1.0`, `1e+20`, `nan`. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (Object.is(value, -0)) return '-0.0';
  const [mantissa = '', power = '0'] = value.toExponential().split('e');
  const exponent = Number(power);
  if (value !== 0 && (exponent < -4 || exponent >= 16)) return mantissa + exponentText(exponent);
  if (exponent >= 0) {
    const text = value.toString();
    return text.includes('.') ? text : `${text}.0`;
  }
  const digits = mantissa.replace(/[-.]/g, '');
  return `${value < 0 ? '-' : ''}0.${'0'.repeat(-exponent - 1)}${digits}`;
}
