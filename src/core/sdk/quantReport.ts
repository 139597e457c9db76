/** What quantization in place made of a model. */
import type { ApplyCalibrationOptions, CalibrationStatus } from './calibration.ts';

export interface QuantLayer {
  /** Path of the module in the model. */
  readonly module: string;
  readonly requested: string;
  /** After promotion, or the topology's pin. */
  readonly resolved: string;
  /** What it is kept as: a type, or the checkpoint's own format. */
  readonly stored: string;
  readonly shape: readonly [number, number];
  readonly bytes: number;
  readonly fallback?: { readonly from: string; readonly to: string; readonly reason: string };
  readonly promoted?: true;
  readonly pinned?: true;
}

export interface QuantReport {
  /** `undefined` where only the topology named types. */
  readonly default: string | undefined;
  readonly layers: readonly QuantLayer[];
  /** Of the quantized matrices, as the checkpoint stores them. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly seconds: number;
}

/** Quantization of a model that was loaded with it. */
export interface ModelQuantization {
  report(): QuantReport | undefined;
  /** Resolves when all weights have been exchanged; on failure the model is as before. */
  requantize(type: string | number, signal: AbortSignal | undefined): Promise<void>;
  beginCalibration(signal: AbortSignal | undefined): Promise<CalibrationStatus>;
  calibrationStatus(perLayer: boolean, signal: AbortSignal | undefined): Promise<CalibrationStatus>;
  /** Resolves when all layers have been exchanged, to the status before. */
  applyCalibration(options: ApplyCalibrationOptions, signal: AbortSignal | undefined): Promise<CalibrationStatus>;
}
