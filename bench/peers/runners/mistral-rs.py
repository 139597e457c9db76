"""mistral.rs, its Python wheel on the CPU. Raw completions do not stream, so times are differences of whole requests."""
import os
import time

from common import SPAWNED, args, emit, median, prompts

os.environ["RAYON_NUM_THREADS"] = str(args.threads)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RUST_LOG", "off")
import mistralrs as m  # noqa: E402  (reads the environment when imported)

folder, file = os.path.split(os.path.abspath(args.model))
runner = m.Runner(which=m.Which.GGUF(quantized_model_id=folder, quantized_filename=file), prefix_cache_n=0, max_seqs=16)


def generate(prompt, count):
    start = time.time()
    request = m.CompletionRequest(model="default", prompt=prompt, max_tokens=count, temperature=0.0, ignore_eos=True)
    usage = runner.send_completion_request(request).usage
    return time.time() - start, usage.completion_tokens, usage.prompt_tokens


first, _, _ = generate(prompts["short"], 1)
ttft = time.time() - SPAWNED
decoded, prefilled = [], []
for k in range(args.reps):
    whole, count, _ = generate(prompts["short"], args.decode)
    one, ones, _ = generate(prompts["short"], 1)
    decoded.append((count - ones) / (whole - one))
    seconds, _, tokens = generate(prompts["long"][k % len(prompts["long"])], 1)
    prefilled.append(tokens / seconds)
emit(decode_tps=median(decoded), prefill_tps=median(prefilled), ttft_s=ttft)
