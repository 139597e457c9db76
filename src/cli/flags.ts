/** Options of the command line, and what they mean to the SDK. */
import type { LoraAdapterSpec } from '../core/sdk/adapters.ts';
import type {
  CacheOptions,
  Device,
  LoadOptions,
  ModelDType,
  MtpOptions,
  SpeculationOptions,
} from '../core/sdk/options.ts';
import type { AdapterSelection, SamplingParams } from '../core/sdk/request.ts';
import type { XLoraOptions } from '../core/sdk/xlora.ts';

export interface ModelFlags {
  readonly model?: string;
  readonly file?: readonly string[];
  readonly fromUqff?: readonly string[];
  readonly threads?: number;
  readonly device?: string;
  readonly adapter?: string;
  readonly simd?: string;
  readonly dtype?: string;
  readonly isq?: string;
  readonly expertsOnly?: boolean;
  readonly imatrix?: string;
  readonly calibrationFile?: string;
  readonly topology?: string;
  readonly lora?: readonly LoraAdapterSpec[];
  readonly legacyLora?: string;
  readonly legacyLoraOrder?: string;
  readonly xlora?: string;
  readonly xloraOrder?: string;
  readonly tgtNonGranularIndex?: number;
  readonly cacheType?: string;
  readonly draftModel?: string;
  readonly draftTokens?: number;
  readonly lookup?: boolean;
  readonly mtp?: boolean;
  readonly mtpModel?: string;
  readonly mtpNPredict?: number;
}

export interface RunFlags extends ModelFlags {
  readonly loraAdapter?: string;
  readonly system?: string;
  readonly raw?: boolean;
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: number;
  readonly thinking?: boolean;
  readonly reasoningEffort?: string;
  readonly chatTemplate?: string;
  readonly tokenizer?: string;
  readonly context?: number;
  readonly revision?: string;
  readonly tokenSource?: string;
  readonly offline?: boolean;
  readonly quiet?: boolean;
}

/** The load options behind the flags all commands share; wrong words are refused by `loadModel`, by name. */
export function loadOptions(flags: ModelFlags): LoadOptions {
  return {
    files: flags.file,
    fromUqff: flags.fromUqff,
    threads: flags.threads,
    device: flags.device as Device | undefined,
    adapter: flags.adapter,
    simd: flags.simd as LoadOptions['simd'],
    dtype: flags.dtype as ModelDType | undefined,
    isq: flags.isq,
    mixtureQexpertsIsq: flags.expertsOnly,
    imatrix: flags.imatrix,
    calibrationFile: flags.calibrationFile,
    topologyFromPath: flags.topology,
    loraAdapters: flags.lora,
    legacyLora: mixOf(flags.legacyLora, flags.legacyLoraOrder),
    xlora: xloraOf(flags),
    pagedAttn: flags.cacheType === undefined ? undefined : { cacheType: flags.cacheType as CacheOptions['cacheType'] },
    draftModel: flags.draftModel,
    mtp: mtpOf(flags),
    speculation: speculationOf(flags),
  };
}

function mixOf(modelId: string | undefined, ordering: string | undefined) {
  return modelId === undefined ? undefined : { modelId, ...(ordering === undefined ? {} : { ordering }) };
}

function xloraOf({ xlora, xloraOrder, tgtNonGranularIndex: index }: ModelFlags): XLoraOptions | undefined {
  const mix = mixOf(xlora, xloraOrder);
  return mix && { ...mix, ...(index === undefined ? {} : { tgtNonGranularIndex: index }) };
}

function speculationOf({ lookup, draftTokens }: ModelFlags): SpeculationOptions | undefined {
  return lookup === undefined && draftTokens === undefined ? undefined : { lookup, nPredict: draftTokens };
}

function mtpOf({ mtp, mtpModel, mtpNPredict }: ModelFlags): MtpOptions | undefined {
  const asked = mtp === true || mtpModel !== undefined || mtpNPredict !== undefined;
  return asked ? { model: mtpModel, nPredict: mtpNPredict } : undefined;
}

/** The adapter that answers: the one asked for, or the first that was loaded. */
export function adapterOf({ loraAdapter, lora }: RunFlags): AdapterSelection | undefined {
  return loraAdapter ?? lora?.[0]?.alias;
}

/** Sampling asked for on the command line, or `undefined` when nothing was. */
export function samplingOf(flags: RunFlags): SamplingParams | undefined {
  const { temperature, topK, topP, minP, repetitionPenalty } = flags;
  const given = { temperature, topK, topP, minP, repetitionPenalty };
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return Object.keys(set).length > 0 ? set : undefined;
}
