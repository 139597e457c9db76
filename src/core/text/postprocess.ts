/** Post-processors of tokenizer files: which special tokens surround the encoded text. */
import { FormatError, InferenceError } from '../errors.ts';
import {
  arrayField,
  type Fields,
  fieldsOf,
  integerField,
  integerOf,
  malformed,
  objectField,
  oneOfField,
  optionalFields,
  stringField,
} from './fields.ts';

/** Consecutive ids of a result that share a type id: the number of the text they belong to. */
export interface Run {
  readonly ids: ArrayLike<number>;
  readonly typeId: number;
}

/** One encoded text, or a part of the result. */
export type Encoded = readonly Run[];

export interface PostProcessor {
  /** One or two encoded texts in; the parts of the result out. */
  process(texts: readonly Encoded[], addSpecialTokens: boolean): readonly Encoded[];
  /** How many tokens it adds. */
  added(pair: boolean): number;
}

const MAX_DEPTH = 16;
const MAX_STEPS = 256;
const MAX_ID = 2 ** 32 - 1;

export function postProcessorOf(value: unknown, path: string, depth = 0): PostProcessor {
  const fields = fieldsOf(value, path);
  const type = stringField(fields, 'type');
  switch (type) {
    case 'Sequence': {
      const items = arrayField(fields, 'processors');
      if (depth >= MAX_DEPTH)
        throw malformed(`${path}.processors`, `sequences nested at most ${MAX_DEPTH} deep`, items);
      if (items.length > MAX_STEPS) throw malformed(`${path}.processors`, `at most ${MAX_STEPS} processors`, items);
      return inSequence(items.map((item, i) => postProcessorOf(item, `${path}.processors[${i}]`, depth + 1)));
    }
    case 'ByteLevel':
      return { process: (texts) => texts, added: () => 0 };
    case 'BertProcessing':
      return surrounding(tokenField(fields, 'cls'), tokenField(fields, 'sep'), false);
    case 'RobertaProcessing':
      return surrounding(tokenField(fields, 'cls'), tokenField(fields, 'sep'), true);
    case 'TemplateProcessing':
      return template(fields);
    default:
      throw malformed(
        `${path}.type`,
        'Sequence | ByteLevel | BertProcessing | RobertaProcessing | TemplateProcessing',
        type,
      );
  }
}

function inSequence(steps: readonly PostProcessor[]): PostProcessor {
  return {
    process: (texts, addSpecialTokens) =>
      steps.reduce((encoded, step) => step.process(encoded, addSpecialTokens), texts),
    added: (pair) => steps.reduce((sum, step) => sum + step.added(pair), 0),
  };
}

/** `["[SEP]", 102]` */
function tokenField(fields: Fields, key: string): number {
  const [, id] = arrayField(fields, key);
  return integerOf(id, `${fields.path}.${key}[1]`, 0, MAX_ID);
}

/** `cls A sep`, and for a pair `cls A sep B sep` (`cls A sep sep B sep` in the RoBERTa way, where all type ids are 0). */
function surrounding(cls: number, sep: number, roberta: boolean): PostProcessor {
  return {
    process(texts, addSpecialTokens) {
      const typed = roberta ? texts.map((text) => withType(text, 0)) : texts;
      if (!addSpecialTokens) return typed;
      return typed.map((text, i) => {
        const before = i === 0 ? [run([cls], 0)] : roberta ? [run([sep], 0)] : [];
        return [...before, ...text, run([sep], i === 0 || roberta ? 0 : 1)];
      });
    },
    added: (pair) => (pair ? (roberta ? 4 : 3) : 2),
  };
}

function run(ids: readonly number[], typeId: number): Run {
  return { ids, typeId };
}

function withType(text: Encoded, typeId: number): Encoded {
  return text.map(({ ids }) => ({ ids, typeId }));
}

type Piece =
  | { readonly kind: 'sequence'; readonly index: 0 | 1; readonly typeId: number }
  | { readonly kind: 'special'; readonly ids: readonly number[]; readonly typeId: number };

function template(fields: Fields): PostProcessor {
  const specials = objectField(fields, 'special_tokens');
  const single = pieces(fields, 'single', specials);
  const pair = pieces(fields, 'pair', specials);
  const added = (list: readonly Piece[]): number =>
    list.reduce((sum, piece) => sum + (piece.kind === 'special' ? piece.ids.length : 0), 0);
  return {
    process(texts, addSpecialTokens) {
      if (texts.length > 2) {
        throw new InferenceError(
          `${fields.path}: expected one or two texts, got ${texts.length}: a template cannot follow another one`,
        );
      }
      return (texts.length === 2 ? pair : single).flatMap((piece): readonly Encoded[] => {
        if (piece.kind === 'special') {
          return addSpecialTokens ? [[run(piece.ids, piece.typeId)]] : [];
        }
        const text = texts[piece.index];
        if (text === undefined) throw new InferenceError(`${fields.path}.single: expected the sequence A only, got B`);
        return [withType(text, piece.typeId)];
      });
    },
    added: (isPair) => added(isPair ? pair : single),
  };
}

function pieces(fields: Fields, key: string, specials: Fields): readonly Piece[] {
  const items = arrayField(fields, key);
  const path = `${fields.path}.${key}`;
  if (items.length > MAX_STEPS) throw malformed(path, `at most ${MAX_STEPS} pieces`, items);
  return items.map((item, i): Piece => {
    const piece = fieldsOf(item, `${path}[${i}]`);
    const sequence = optionalFields(piece, 'Sequence');
    if (sequence !== undefined) {
      const typeId = integerField(sequence, 'type_id', 0, MAX_ID);
      return { kind: 'sequence', index: oneOfField(sequence, 'id', ['A', 'B']) === 'A' ? 0 : 1, typeId };
    }
    const special = objectField(piece, 'SpecialToken');
    const name = stringField(special, 'id');
    if (!Object.hasOwn(specials.value, name)) {
      throw new FormatError(`${special.path}.id: expected a token of special_tokens, got ${JSON.stringify(name)}`);
    }
    const token = objectField(specials, name);
    const ids = arrayField(token, 'ids').map((id, j) => integerOf(id, `${token.path}.ids[${j}]`, 0, MAX_ID));
    return { kind: 'special', ids, typeId: integerField(special, 'type_id', 0, MAX_ID) };
  });
}

/** Special tokens before and after a text, as GGUF files ask for by switches. */
export function affixes(before: readonly number[], after: readonly number[]): PostProcessor {
  return {
    process(texts, addSpecialTokens) {
      if (!addSpecialTokens) return texts;
      return texts.map((text, i) => [run(before, i), ...text, run(after, i)]);
    },
    added: (pair) => (before.length + after.length) * (pair ? 2 : 1),
  };
}
