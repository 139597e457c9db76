import { LoraAdapterError } from '../errors.ts';

/** The rules of the adapter lifecycle that `LoraAdapterError.code` names. */
export type LoraErrorCode =
  | 'runtime_unavailable'
  | 'invalid_runtime_config'
  | 'invalid_alias'
  | 'alias_too_long'
  | 'alias_limit'
  | 'invalid_policy'
  | 'load_busy'
  | 'already_loaded'
  | 'not_found'
  | 'generation_not_found'
  | 'generation_mismatch'
  | 'generation_conflict'
  | 'adapter_limit'
  | 'rank_limit'
  | 'byte_limit'
  | 'file_too_large'
  | 'io'
  | 'config'
  | 'format'
  | 'load';

export function loraError(
  code: LoraErrorCode,
  message: string,
  at: { readonly alias?: string; readonly generation?: string } = {},
): LoraAdapterError {
  return new LoraAdapterError(code, message, at);
}
