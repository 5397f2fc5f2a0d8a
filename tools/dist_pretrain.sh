#!/usr/bin/env bash
# Pre-train on several GPUs, or in several processes on a CPU:
#   tools/dist_pretrain.sh CONFIG PROCESSES [options of tools/pretrain.py]
# On several machines, on each: NNODES, NODE_RANK and MASTER_ADDR (and PORT) in the environment.
# SHUTDOWN (300): seconds that the processes have on a signal to save, before they are killed.
exec bash "$(dirname "$0")/_dist.sh" "$0" pretrain 1 "$@"
