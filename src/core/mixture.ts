/** MLPs that stand in for one another, as models see them. Types only. */
import type { Step } from './model.ts';
import type { Tensor } from './tensor.ts';
import type { SourceTensor } from './weights.ts';

/** Layers whose MLP is one of several. */
export interface MlpMixtures {
  /** What takes the place of the MLP at a path (with a final dot), if anything does. */
  at(path: string): MlpMixture | undefined;
  /** At this moment all rows have to pass every MLP, also those whose logits nobody wants. */
  readonly needsAllRows: boolean;
}

export interface MlpMixture {
  /** Experts, the model's own MLP first. */
  readonly count: number;
  /** What an expert above 0 has in the place of a tensor of the model's own MLP; `name` is that below the MLP. */
  tensorOf(expert: number, own: SourceTensor, name: string): SourceTensor;
  routes(x: Tensor, s: Step): MlpRoutes;
}

export interface MlpRoutes {
  /** i32 `[rows, k]` */
  readonly experts: Tensor;
  /** `[rows, k]`; absent where one expert counts fully. */
  readonly weights?: Tensor | undefined;
}
