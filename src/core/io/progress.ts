/** How far a long operation has come. */
export interface Progress {
  readonly stage: 'download' | 'load' | 'quantize' | 'calibrate' | 'warmup';
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'tensors' | 'steps';
  /** What is being worked on: a file or tensor. */
  readonly item?: string | undefined;
}

export type OnProgress = (progress: Progress) => void;
