/** Calibration of a quantized model on its own traffic. */
import { ConfigError } from '../errors.ts';

export interface CalibrationStatus {
  readonly collecting: boolean;
  /** Modules that quantization in place has made. */
  readonly layers: number;
  readonly layersTracking: number;
  /** Rows of activations of all tracking layers together; those of the least and of the most used one; 0 when none tracks. */
  readonly totalRows: number;
  readonly minRows: number;
  readonly maxRows: number;
  /** Where asked for. For routed experts, rows of all experts of a layer. */
  readonly perLayer?: readonly { readonly module: string; readonly rows: number }[];
  /** Modules with fewer rows than `applyCalibration` was to report. */
  readonly thinLayers?: readonly string[];
}

export interface ApplyCalibrationOptions {
  /** A file to keep the importance in; its name ends in `.cimatrix`. */
  readonly saveCimatrix?: string | undefined;
  /** Layers that saw fewer rows are reported, and calibrated all the same; 0 when absent. */
  readonly minRows?: number | undefined;
}

/** @throws ConfigError for options that cannot be meant. */
export function checkApplyOptions({ saveCimatrix, minRows = 0 }: ApplyCalibrationOptions): void {
  if (saveCimatrix !== undefined && !(typeof saveCimatrix === 'string' && saveCimatrix.endsWith('.cimatrix'))) {
    throw new ConfigError(
      `applyCalibration: saveCimatrix: expected a name that ends in .cimatrix, got ${JSON.stringify(saveCimatrix)}`,
    );
  }
  if (!Number.isSafeInteger(minRows) || minRows < 0) {
    throw new ConfigError(`applyCalibration: minRows: expected a whole number from 0 on, got ${String(minRows)}`);
  }
}
