"""llama.cpp through its C API (llama-cpp-python), with no sampling or chat layer in between."""
import ctypes
import time

import llama_cpp as L
import numpy as np
from common import CONTEXT, PREFILL, SPAWNED, args, batches, contexts, emit, median, prompts

quiet = L.llama_log_callback(lambda *_: None)
L.llama_log_set(quiet, ctypes.c_void_p(0))
L.llama_backend_init()
model = L.llama_model_load_from_file(args.model.encode(), L.llama_model_default_params())
vocab = L.llama_model_get_vocab(model)
size = L.llama_vocab_n_tokens(vocab)


def context(n_ctx, sequences=1):
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = n_ctx, PREFILL, PREFILL, sequences
    p.n_threads = p.n_threads_batch = args.threads
    return L.llama_init_from_model(model, p)


def tokenize(text):
    raw = text.encode()
    ids = (L.llama_token * (len(raw) + 8))()
    return list(ids[: L.llama_tokenize(vocab, raw, len(raw), ids, len(ids), True, False)])


rows = L.llama_batch_init(PREFILL, 0, 1)


def decode(ctx, items):
    """items: (token, position, sequence, wants logits)"""
    rows.n_tokens = len(items)
    for i, (token, position, sequence, wanted) in enumerate(items):
        rows.token[i], rows.pos[i], rows.n_seq_id[i], rows.logits[i] = token, position, 1, wanted
        rows.seq_id[i][0] = sequence
    assert L.llama_decode(ctx, rows) == 0


def best(ctx, row):
    return int(np.ctypeslib.as_array(L.llama_get_logits_ith(ctx, row), (size,)).argmax())


def prefill(ctx, ids, sequence=0):
    decode(ctx, [(t, i, sequence, i == len(ids) - 1) for i, t in enumerate(ids)])
    return best(ctx, len(ids) - 1)


def clock():
    """Wall and CPU time."""
    return time.time(), time.process_time()


def rates(count, start):
    """Tokens per second of wall and of CPU time."""
    return [count / (b - a) for a, b in zip(start, clock())]


def generate(ctx, token, position):
    """The rates of a greedy continuation."""
    start = clock()
    for n in range(args.decode - 1):
        decode(ctx, [(token, position + n, 0, True)])
        token = best(ctx, 0)
    return rates(args.decode - 1, start)


ctx = context(CONTEXT)
memory = L.llama_get_memory(ctx)
short = tokenize(prompts["short"])
decoded, prefilled, ttft = [], [], None
for _ in range(args.reps):
    L.llama_memory_clear(memory, True)
    token = prefill(ctx, short)
    ttft = ttft or time.time() - SPAWNED
    decoded.append(generate(ctx, token, len(short)))
for k in range(args.reps):
    L.llama_memory_clear(memory, True)
    ids = tokenize(prompts["long"][k % len(prompts["long"])])[:PREFILL]
    start = clock()
    prefill(ctx, ids)
    prefilled.append(rates(len(ids), start))
behind = {}
text = [t for p in prompts["long"] for t in tokenize(p)]
for length in contexts:
    L.llama_memory_clear(memory, True)
    ids = [text[i % len(text)] for i in range(length)]
    for at in range(0, length, PREFILL):
        part = ids[at : at + PREFILL]
        decode(ctx, [(t, at + i, 0, at + i == length - 1) for i, t in enumerate(part)])
    token = best(ctx, len(part) - 1)
    behind[length] = generate(ctx, token, length)
L.llama_free(ctx)

together = {}
for count in batches:
    ctx = context(256 * count, count)
    starts = [tokenize(p) for p in prompts["batch"][:count]]
    tokens = [prefill(ctx, ids, s) for s, ids in enumerate(starts)]
    start = time.time()
    for n in range(args.batch_decode):
        decode(ctx, [(tokens[s], len(starts[s]) + n, s, True) for s in range(count)])
        tokens = [best(ctx, s) for s in range(count)]
    together[count] = count * args.batch_decode / (time.time() - start)
    L.llama_free(ctx)


def medians(samples):
    return [median(column) for column in zip(*samples)]


(decode_tps, decode_cpu_tps), (prefill_tps, prefill_cpu_tps) = medians(decoded), medians(prefilled)
emit(
    decode_tps=decode_tps,
    decode_cpu_tps=decode_cpu_tps,
    prefill_tps=prefill_tps,
    prefill_cpu_tps=prefill_cpu_tps,
    ttft_s=ttft,
    context={n: tps for n, (tps, _) in behind.items()},
    context_cpu={n: tps for n, (_, tps) in behind.items()},
    batch=together,
)
