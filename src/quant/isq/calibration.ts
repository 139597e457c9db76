/** Importance of weights from the traffic of a running model. */
import { InferenceError, UnsupportedError } from '../../core/errors.ts';
import type { CalibrationStatus } from '../../core/sdk/calibration.ts';
import type { WeightMatrix, Weights } from '../../core/weights.ts';
import { expertPaths } from './importance.ts';
import type { Isq } from './index.ts';
import { isTable, moduleOf } from './plan.ts';
import { ColumnSquares } from './squares.ts';

/** Types whose codes are not chosen by importance, and whose packers would refuse it. */
const REFUSING = /^(HQQ|F8|MXFP4)/;

/** A matrix that quantization in place has made, and the modules that it stands for in reports and files. */
export interface Layer {
  readonly matrix: WeightMatrix;
  readonly modules: readonly string[];
}

/** The matrices of a model that its activations are multiplied with, and that a part of was `chosen` by name. */
export function calibratedLayers(weights: Weights, chosen: (name: string) => boolean): Layer[] {
  const layers: Layer[] = [];
  for (const matrix of weights.matrices) {
    const { weight, parts } = matrix;
    if (!parts.some((part) => chosen(part.name)) || isTable(weight.name, weights.weights.keys())) continue;
    // Matrices that are cut out of one, and no longer rows of it, have names of their own.
    const names = weight.parts.length > 0 ? parts.map((p) => p.name) : [weight.name];
    layers.push({ matrix, modules: expertPaths(weight) ?? [...new Set(names.map(moduleOf))] });
  }
  return layers;
}

/**
 * The layers that quantization in place has made.
 * @throws UnsupportedError where there are none, or some of a type that importance does not go with.
 */
export function quantizedLayers(weights: Weights, isq: Isq): Layer[] {
  const layers = calibratedLayers(weights, (name) => isq.typeOf(name) !== undefined);
  if (layers.length === 0) {
    throw new UnsupportedError('calibration: expected matrices that isq has quantized, got none; load with isq', {
      feature: 'calibration',
    });
  }
  for (const { name } of layers.flatMap(({ matrix }) => matrix.parts)) {
    const type = isq.typeOf(name);
    if (type === undefined || !REFUSING.test(type)) continue;
    throw new UnsupportedError(
      `calibration: ${moduleOf(name)}: expected a type that importance can choose codes of (Q2K to Q6K), got ${type}; quantize to another`,
      { feature: `calibration of ${type}` },
    );
  }
  return layers;
}

interface Collected {
  readonly layer: Layer;
  readonly squares: ColumnSquares;
}

/** A layer, and the importance of its columns; of stacked experts, of one after the other. */
export interface Measured {
  readonly layer: Layer;
  readonly values: Float32Array | undefined;
}

/** By module: what files of importance hold. */
export function byModule(measured: readonly Measured[]): Map<string, Float32Array> {
  const found = new Map<string, Float32Array>();
  for (const { layer, values } of measured) if (values) for (const m of layer.modules) found.set(m, values);
  return found;
}

/** Statistics of all layers of a model, from `begin` to `end`. */
export class Calibration {
  readonly #weights: Weights;
  #collected: readonly Collected[] = [];

  constructor(weights: Weights) {
    this.#weights = weights;
  }

  get collecting(): boolean {
    return this.#collected.length > 0;
  }

  /** Collects from now on, from zero. No step may run. */
  begin(layers: readonly Layer[]): void {
    this.end();
    const collected: Collected[] = [];
    this.#collected = collected;
    try {
      for (const layer of layers) {
        const squares = new ColumnSquares(this.#weights.backend, layer.matrix.weight);
        collected.push({ layer, squares });
        layer.matrix.weight.observer = squares;
      }
    } catch (error) {
      this.end();
      throw error;
    }
  }

  status(isq: Isq, perLayer = false): CalibrationStatus {
    const counts = this.#collected.flatMap(({ layer, squares: { rows } }) => layer.modules.map(() => rows));
    const layers = calibratedLayers(this.#weights, (name) => isq.typeOf(name) !== undefined);
    return {
      collecting: this.collecting,
      layers: layers.reduce((n, l) => n + l.modules.length, 0),
      layersTracking: counts.length,
      totalRows: counts.reduce((n, c) => n + c, 0),
      minRows: counts.reduce((least, c) => Math.min(least, c), counts[0] ?? 0),
      maxRows: counts.reduce((most, c) => Math.max(most, c), 0),
      ...(perLayer ? { perLayer: this.#rows() } : {}),
    };
  }

  /** @throws InferenceError when nothing is being collected. */
  checkCollecting(): void {
    if (this.collecting) return;
    throw new InferenceError(
      'applyCalibration: expected a calibration that runs, got none; call beginCalibration first',
    );
  }

  /**
   * What was collected; no values for layers that saw no rows, or values beyond floats. Collecting goes on.
   * @throws InferenceError when nothing is being collected, or no rows came.
   */
  async harvest(): Promise<readonly Measured[]> {
    this.checkCollecting();
    const found: Measured[] = [];
    for (const { layer, squares } of this.#collected) {
      found.push({ layer, values: squares.rows > 0 ? await squares.importance() : undefined });
    }
    if (found.every(({ values }) => values === undefined)) {
      throw new InferenceError('applyCalibration: expected rows of some request, got none yet; send requests first');
    }
    return found;
  }

  /** Modules that saw fewer rows than that. */
  thin(minRows: number): string[] {
    return this.#rows().flatMap(({ module, rows }) => (rows < minRows ? [module] : []));
  }

  /** Stops collecting and gives the memory back. No step may run. */
  end(): void {
    for (const { layer, squares } of this.#collected) {
      layer.matrix.weight.observer = undefined;
      squares.dispose();
    }
    this.#collected = [];
  }

  #rows(): { readonly module: string; readonly rows: number }[] {
    return this.#collected.flatMap(({ layer, squares: { rows } }) => layer.modules.map((module) => ({ module, rows })));
  }
}
