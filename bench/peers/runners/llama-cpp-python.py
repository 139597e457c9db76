"""llama.cpp through its C API (llama-cpp-python), with no sampling or chat layer in between."""
import ctypes
import time

import llama_cpp as L
import numpy as np
from common import CONTEXT, SPAWNED, args, batches, emit, median, prompts

quiet = L.llama_log_callback(lambda *_: None)
L.llama_log_set(quiet, ctypes.c_void_p(0))
L.llama_backend_init()
model = L.llama_model_load_from_file(args.model.encode(), L.llama_model_default_params())
vocab = L.llama_model_get_vocab(model)
size = L.llama_vocab_n_tokens(vocab)


def context(n_ctx, sequences=1):
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = n_ctx, 512, 512, sequences
    p.n_threads = p.n_threads_batch = args.threads
    return L.llama_init_from_model(model, p)


def tokenize(text):
    raw = text.encode()
    ids = (L.llama_token * (len(raw) + 8))()
    return list(ids[: L.llama_tokenize(vocab, raw, len(raw), ids, len(ids), True, False)])


rows = L.llama_batch_init(512, 0, 1)


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


ctx = context(CONTEXT)
memory = L.llama_get_memory(ctx)
short = tokenize(prompts["short"])
decoded, prefilled, ttft = [], [], None
for _ in range(args.reps):
    L.llama_memory_clear(memory, True)
    token = prefill(ctx, short)
    start = time.time()
    ttft = ttft or start - SPAWNED
    for n in range(args.decode - 1):
        decode(ctx, [(token, len(short) + n, 0, True)])
        token = best(ctx, 0)
    decoded.append((args.decode - 1) / (time.time() - start))
for k in range(args.reps):
    L.llama_memory_clear(memory, True)
    ids = tokenize(prompts["long"][k % len(prompts["long"])])
    start = time.time()
    prefill(ctx, ids)
    prefilled.append(len(ids) / (time.time() - start))
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
emit(decode_tps=median(decoded), prefill_tps=median(prefilled), ttft_s=ttft, batch=together)
