/** Where bytes come from: a file, a `Blob`, an `ArrayBuffer` or an HTTP resource, all read by range. */
export interface ByteSource {
  /** For messages: a path, URL or "buffer". */
  readonly name: string;
  readonly size: number;
  /** Bytes `[start, end)`. Rejects with `FormatError` when the range lies outside the source. */
  slice(start: number, end: number): Promise<Uint8Array>;
  /**
   * Fills `target` from `start`, without a copy where the runtime can (a file read straight into WASM memory).
   * `target` may lie on a `SharedArrayBuffer`.
   */
  readInto(start: number, target: Uint8Array): Promise<void>;
  close(): Promise<void>;
}
