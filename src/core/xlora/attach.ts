/** From the adapters of a model to what is added to its weights, each row of a matrix with the scalings it takes. */
import type { Backend } from '../backend.ts';
import { ConfigError } from '../errors.ts';
import { deviceMatrix } from '../lora/build.ts';
import { moduleKey } from '../lora/modules.ts';
import { type RowScalings, ScaledDelta, type ScalingColumns } from '../lora/scaled.ts';
import type { Owner, StackedAdapters } from '../lora/stack.ts';

/** The scaling of an adapter in a module, as a column of the classifier's result. */
export type ColumnOf = (owner: Owner) => number;

/** `layers` numbers the modules; without it all of them share the scalings. Throws `ConfigError` for modules it lacks. */
export function columnsByModule(
  layers: Readonly<Record<string, number>> | undefined,
  adapters: number,
  modules: number,
): ColumnOf {
  if (modules === 1) return (owner) => owner.adapter;
  if (layers === undefined) {
    throw new ConfigError(
      'xlora ordering: expected `layers`, the number of the scalings of each module, as layerwise_scalings is on; got none',
    );
  }
  const byModule = new Map(Object.entries(layers).map(([module, layer]) => [moduleKey(module), layer]));
  return ({ adapter, module }) => {
    const layer = byModule.get(moduleKey(module));
    if (layer === undefined || layer >= modules) {
      throw new ConfigError(
        `xlora ordering: layers: expected a number below ${modules} for ${JSON.stringify(module)}, got ${layer ?? 'none'}`,
      );
    }
    return layer * adapters + adapter;
  };
}

/** Sets the deltas of all weights. They take the device memory of `stacks` over. */
export async function attachScaled(
  stacks: readonly StackedAdapters[],
  backend: Backend,
  scaling?: { readonly rows: RowScalings; readonly columnOf: ColumnOf },
): Promise<ScaledDelta[]> {
  const deltas: ScaledDelta[] = [];
  for (const stack of stacks) {
    const columns = scaling && (await columnsFor(stack, backend, scaling.columnOf));
    deltas.push(new ScaledDelta(stack.pair, scaling?.rows, columns));
    stack.weight.delta = deltas.at(-1);
  }
  return deltas;
}

async function columnsFor(stack: StackedAdapters, backend: Backend, columnOf: ColumnOf): Promise<ScalingColumns> {
  const { weight, owners } = stack;
  const each = owners.map((owner) => (owner ? columnOf(owner) : undefined));
  if (!weight.experts)
    return {
      columns: backend.upload(
        Int32Array.from(each, (c) => c ?? 0),
        [each.length],
        'i32',
      ),
    };
  const distinct = [...new Set(each.filter((c) => c !== undefined))];
  const ones = new Float32Array(each.length * distinct.length);
  each.forEach((c, row) => {
    if (c !== undefined) ones[row * distinct.length + distinct.indexOf(c)] = 1;
  });
  const shape = [each.length, distinct.length] as const;
  const chosen = await deviceMatrix(backend, `${weight.name}: scalings`, ones, shape);
  return { columns: backend.upload(Int32Array.from(distinct), [distinct.length], 'i32'), chosen };
}
