/** The truncation and padding sections of tokenizer files. */
import { InferenceError } from '../errors.ts';
import { type Fields, integerField, integerOf, malformed, objectField, oneOfField, stringField } from './fields.ts';
import type { Run } from './postprocess.ts';

export interface Truncation {
  readonly maxLength: number;
  readonly strategy: 'LongestFirst' | 'OnlyFirst' | 'OnlySecond';
  /** Cuts at the front. */
  readonly left: boolean;
}

export interface Padding {
  /** Total length; `undefined` pads to the longest of a batch, which a single text always is. */
  readonly length: number | undefined;
  readonly multipleOf: number | undefined;
  readonly left: boolean;
  readonly id: number;
  readonly typeId: number;
}

const MAX_LENGTH = Number.MAX_SAFE_INTEGER;
/** A fixed length is filled up for every text, so it is not believed without limit. */
const MAX_PADDED_LENGTH = 1 << 22;
const MAX_ID = 2 ** 32 - 1;

export function truncationOf(fields: Fields): Truncation {
  const maxLength = integerField(fields, 'max_length', 0, MAX_LENGTH);
  integerField(fields, 'stride', 0, MAX_LENGTH, 0);
  return {
    maxLength,
    strategy: oneOfField(fields, 'strategy', ['LongestFirst', 'OnlyFirst', 'OnlySecond'], 'LongestFirst'),
    left: oneOfField(fields, 'direction', ['Left', 'Right'], 'Right') === 'Left',
  };
}

export function paddingOf(fields: Fields): Padding {
  const strategy = fields.value['strategy'];
  let length: number | undefined;
  if (strategy !== 'BatchLongest') {
    if (typeof strategy === 'string') throw malformed(`${fields.path}.strategy`, 'BatchLongest or Fixed', strategy);
    length = integerField(objectField(fields, 'strategy'), 'Fixed', 0, MAX_PADDED_LENGTH);
  }
  const multiple = fields.value['pad_to_multiple_of'];
  stringField(fields, 'pad_token', '');
  return {
    length,
    multipleOf:
      multiple === undefined || multiple === null
        ? undefined
        : integerOf(multiple, `${fields.path}.pad_to_multiple_of`, 0, MAX_PADDED_LENGTH),
    left: oneOfField(fields, 'direction', ['Left', 'Right'], 'Right') === 'Left',
    id: integerField(fields, 'pad_id', 0, MAX_ID, 0),
    typeId: integerField(fields, 'pad_type_id', 0, MAX_ID, 0),
  };
}

/** Cuts one or two texts so that they fit together with `added` more tokens. */
export function truncate(texts: readonly Uint32Array[], to: Truncation, added: number): readonly Uint32Array[] {
  const limit = to.maxLength - added;
  if (limit < 0) {
    throw new InferenceError(
      `max_length: expected at least the ${added} special tokens, got ${to.maxLength}; raise it or encode without them`,
    );
  }
  const total = texts.reduce((sum, ids) => sum + ids.length, 0);
  if (total <= limit) return texts;
  const keep = (ids: Uint32Array, length: number): Uint32Array =>
    to.left ? ids.slice(Math.max(0, ids.length - length)) : ids.slice(0, length);
  const [first, second] = texts as [Uint32Array, Uint32Array | undefined];
  if (limit === 0) return texts.map((ids) => keep(ids, 0));
  if (to.strategy === 'LongestFirst') {
    if (second === undefined) return [keep(first, limit)];
    const [n1, n2] = sharedLengths(first.length, second.length, limit);
    return [keep(first, n1), keep(second, n2)];
  }
  const target = to.strategy === 'OnlyFirst' ? first : second;
  const surplus = total - limit;
  if (target === undefined || target.length <= surplus) {
    throw new InferenceError(
      `truncation (${to.strategy}): expected a text of more than ${surplus} tokens to cut, got ${target?.length ?? 'none'}`,
    );
  }
  const cut = keep(target, target.length - surplus);
  if (second === undefined) return [cut];
  return target === first ? [cut, second] : [first, cut];
}

/** The shorter text keeps what it has, up to half. */
function sharedLengths(first: number, second: number, limit: number): readonly [number, number] {
  let short = Math.min(first, second);
  let long = short > limit ? short : Math.max(short, limit - short);
  if (short + long > limit) {
    short = Math.floor(limit / 2);
    long = short + (limit % 2);
  }
  return first > second ? [long, short] : [short, long];
}

/** Fills a result up. */
export function pad(runs: readonly Run[], to: Padding): readonly Run[] {
  const total = runs.reduce((sum, run) => sum + run.ids.length, 0);
  let length = to.length ?? total;
  if (to.multipleOf !== undefined && to.multipleOf > 0) length = Math.ceil(length / to.multipleOf) * to.multipleOf;
  if (length <= total) return runs;
  const filler: Run = { ids: new Uint32Array(length - total).fill(to.id), typeId: to.typeId };
  return to.left ? [filler, ...runs] : [...runs, filler];
}
