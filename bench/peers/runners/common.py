"""Shared by the Python runners: arguments, the clock that starts with the process, and the result line."""
import argparse
import json
import os
import statistics
import sys
import time

parser = argparse.ArgumentParser()
for name in ("model", "prompts", "batch", "contexts"):
    parser.add_argument(f"--{name}", default="")
for name in ("threads", "reps", "decode", "batch-decode"):
    parser.add_argument(f"--{name}", type=int, default=1)
args = parser.parse_args()
batches = [int(n) for n in args.batch.split(",") if n]
contexts = [int(n) for n in args.contexts.split(",") if n]
prompts = json.load(open(args.prompts))
SPAWNED = float(os.environ.get("BENCH_T0_MS", time.time() * 1000)) / 1000
# Of a long prompt: what goes through every engine as one batch.
PREFILL = 512
CONTEXT = max([1024] + [n + args.decode for n in contexts])
median = statistics.median


def emit(**result):
    sys.stdout.flush()
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)
