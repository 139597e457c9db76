/** The command line: reads options, loads the command asked for, and turns its outcome into an exit status. */
import { Command, CommanderError } from 'commander';
import { adapterSpec, names, real, typeList, whole, wholeList } from './args.ts';
import type { BenchFlags } from './bench.ts';
import { exitCodeOf, failureText } from './exit.ts';
import type { RunFlags } from './flags.ts';
import type { QuantizeFlags } from './quantize.ts';
import { packageVersion } from './version.ts';

const MAX_TOKENS = 2 ** 31;

function modelOptions(command: Command): Command {
  return command
    .option(
      '-m, --model <model>',
      'folder, .gguf or .uqff file, hub id or URL; the embedded SmolLM2-135M-Instruct when absent',
    )
    .option('-f, --file <names>', 'GGUF files of a folder or repository, separated by semicolons', names)
    .option('--from-uqff <names>', 'UQFF files or types of a folder or repository, separated by semicolons', names)
    .option('--threads <n>', 'threads of the CPU back-end', whole(1, 1024))
    .option('--device <name>', 'auto (a real GPU, else the CPU), cpu, webgpu or reference')
    .option('--adapter <name>', 'part of the name of the GPU adapter to take; "software" for one on the processor')
    .option('--simd <level>', 'auto, relaxed, simd or off')
    .option('--dtype <type>', 'auto keeps the stored formats, f32 computes exactly')
    .option('--isq <type>', 'quantize while loading: Q4K, Q8_0, … or a number of bits')
    .option('--imatrix <file>', 'with --isq: importance of weights, an imatrix of llama.cpp or a .cimatrix file')
    .option('--calibration-file <file>', 'with --isq: a text to measure that importance on')
    .option('--topology <file>', 'types of single layers and weights')
    .option('--experts-only', 'with --isq: quantize routed experts only')
    .option('--cache-type <type>', 'of keys and values: auto, f32, f16 or q8_0')
    .option(
      '--lora <alias=source>',
      'load a LoRA adapter (a folder or hub repository); may be given again',
      adapterSpec,
    )
    .option('--legacy-lora <model>', 'adapters to add to the model for good')
    .option('--legacy-lora-order <file>', 'their ordering file')
    .option('--xlora <model>', 'adapters that a classifier mixes for every token')
    .option('--xlora-order <file>', 'their ordering file')
    .option('--tgt-non-granular-index <n>', 'with --xlora: keep the mixture from this token of an answer on', whole(0))
    .option('--draft-model <model>', 'a smaller model with the same tokens that guesses ahead; same answers, sooner')
    .option('--draft-tokens <n>', 'tokens that the draft model guesses ahead; 4 when absent', whole(1, 64))
    .option('--mtp', 'guess tokens ahead with the prediction head inside the checkpoint; same answers, sooner')
    .option('--mtp-model <model>', 'guess with this model instead, as --draft-model does')
    .option('--mtp-n-predict <n>', 'tokens to guess ahead; 2 when absent, 4 for another model', whole(1, 64))
    .option('--lookup', 'guess tokens out of the text itself: for answers that repeat parts of their prompts');
}

export function program(): Command {
  const root = new Command('tramontane')
    .description('Local language models in any JavaScript runtime.')
    .version(packageVersion)
    .exitOverride()
    .showHelpAfterError('(--help lists the options)');

  modelOptions(root.command('run').description('chat with a model, or answer one prompt'))
    .argument('[prompt...]', 'the question; without it, a chat (or the text on stdin, where that is no terminal)')
    .option('--lora-adapter <alias>', 'the adapter that answers; the first of --lora when absent')
    .option('--system <text>', 'system message')
    .option('--raw', 'continue the prompt as it is, without a chat template')
    .option('-n, --max-tokens <n>', 'longest answer; up to the end of the context when absent', whole(1, MAX_TOKENS))
    .option('--temperature <x>', '0 takes the most likely token', real(0))
    .option('--top-k <n>', 'keep the n most likely tokens', whole(0))
    .option('--top-p <x>', 'keep the most likely tokens of this total probability', real(0, 1))
    .option('--min-p <x>', 'keep tokens above this share of the most likely one', real(0, 1))
    .option('--repetition-penalty <x>', '1 is none', real(0.001, 1000))
    .option('--seed <n>', 'the same seed gives the same answer', whole(0))
    .option('--thinking', 'let the model think first, where it can')
    .option('--no-thinking', 'answer at once')
    .option('--reasoning-effort <level>', 'off, low, medium, high or xhigh')
    .option('-c, --chat-template <template>', 'template text or file')
    .option('-t, --tokenizer <file>', 'a tokenizer.json')
    .option('--context <n>', 'positions of prompt and answer together', whole(1, MAX_TOKENS))
    .option('--revision <name>', 'branch, tag or commit of a hub repository')
    .option('--token-source <source>', 'literal:TOKEN, env:NAME, path:FILE, cache or none')
    .option('--offline', 'use only what is on disk')
    .option('-q, --quiet', 'no progress and no figures on stderr')
    .action(async (prompt: string[], flags: RunFlags) => {
      const { run } = await import('./run.ts');
      process.exitCode = await run(prompt.join(' '), flags);
    });

  modelOptions(root.command('bench').description('measure decoding, prefill, start-up and memory'))
    .option('--prompt <n>', 'prompt tokens of a prefill', whole(1, 1 << 20), 512)
    .option('--gen <n>', 'tokens to generate', whole(2, 1 << 20), 128)
    .option('--parallel <n>', 'sequences decoding together', whole(1, 4096), 1)
    .option('--reps <n>', 'repetitions; the medians are reported', whole(1, 1000), 3)
    .option('--json', 'one JSON object on stdout')
    .option('--perplexity <file>', 'how well the model foretells this text, instead of speed')
    .option('--chunk <n>', 'with --perplexity: tokens of one window; 1024 when absent', whole(1, MAX_TOKENS))
    .option(
      '--stride <n>',
      'with --perplexity: from window to window; the size of one when absent',
      whole(1, MAX_TOKENS),
    )
    .option('--max-chunks <n>', 'with --perplexity: windows to look at', whole(1))
    .option('--bos <id>', 'with --perplexity: token before every window; auto as the tokenizer has it, none', 'auto')
    .option('--reference <model>', 'with --perplexity: divergence from the logits of this model')
    .option('--reference-isq <type>', 'quantize the reference while loading')
    .option('--prompts <file>', 'prompts of a comparison with other engines (bench/peers)')
    .option('--decode <n>', 'with --prompts: tokens to generate', whole(2, 1 << 20), 128)
    .option('--batch <list>', 'with --prompts: numbers of sequences, such as 4,8', wholeList(1, 4096), [4, 8])
    .option('--batch-decode <n>', 'with --prompts: tokens of each sequence of a batch', whole(1, 1 << 20), 64)
    .option(
      '--contexts <list>',
      'with --prompts: decode behind contexts of these lengths too',
      wholeList(1, MAX_TOKENS),
      [],
    )
    .option(
      '--serving <list>',
      'with --prompts: only requests, so many at a time, such as 1,8; --decode is the length of answers',
      wholeList(1, 4096),
      [],
    )
    .option('--serving-prompts <list>', 'with --serving: lengths of prompts, in turn', wholeList(1, MAX_TOKENS), [128])
    .option('--task <task>', 'with --prompts: gen', 'gen')
    .action(async (flags: BenchFlags) => {
      const { bench } = await import('./bench.ts');
      await bench(flags);
    });

  root
    .command('quantize')
    .description('write a model as a GGUF file of another type, or as UQFF files')
    .option('-m, --model <model>', 'folder, .gguf file, hub id or URL; the embedded model when absent')
    .option('-f, --file <names>', 'GGUF files of a folder or repository, separated by semicolons', names)
    .option('--isq <types>', 'the type: Q4K, Q8_0, … or a number of bits; several for a folder: Q4K,AFQ4', typeList, [])
    .option('-o, --output <path>', 'the .gguf or .uqff file to write, or a folder for UQFF files of several types')
    .option('--imatrix <file>', 'importance of weights: an imatrix of llama.cpp, or a .cimatrix file')
    .option('--calibration-file <file>', 'a text to measure that importance on')
    .option('--topology <file>', 'types of single layers and weights')
    .option('--experts-only', 'quantize routed experts only')
    .option('--tok-model-id <model>', 'where tokenizer and chat template come from, for UQFF files of a GGUF model')
    .option('--uqff-base-model <id>', 'what the model was made of, for report and README.md of UQFF files')
    .option('--uqff-repo-id <id>', 'where UQFF files will be published, for report and README.md')
    .option('--no-readme', 'write no README.md into a folder of UQFF files')
    .option('--threads <n>', 'threads that pack weights', whole(1, 1024))
    .option('-q, --quiet', 'no progress and no figures on stderr')
    .action(async (flags: QuantizeFlags) => {
      const { quantize } = await import('./quantize.ts');
      await quantize(flags);
    });

  root
    .command('doctor')
    .description('what this machine offers')
    .option('--json', 'one JSON object')
    .option('--offline', 'do not ask the network')
    .action(async (flags: { json?: boolean; offline?: boolean }) => {
      const { doctor } = await import('./doctor.ts');
      process.exitCode = await doctor(flags);
    });

  root
    .command('models')
    .description('supported architectures, file formats and quantization types')
    .option('--json', 'one JSON object')
    .option('--markdown', 'tables in Markdown')
    .action(async (flags: { json?: boolean; markdown?: boolean }) => {
      const { models } = await import('./models.ts');
      models(flags);
    });

  return root;
}

/** Runs a command line (without node and script) and sets the exit status. */
export async function main(argv: readonly string[]): Promise<void> {
  // A reader that closes the pipe early (`| head`) ends the program quietly.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  try {
    await program().parseAsync(argv, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) process.stderr.write(`${failureText(error)}\n`);
    process.exitCode = exitCodeOf(error);
  }
}
