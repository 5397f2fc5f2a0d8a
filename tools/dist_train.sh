#!/usr/bin/env bash
# Train on several GPUs, or in several processes on a CPU:
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# On several machines, on each: NNODES, NODE_RANK and MASTER_ADDR (and PORT) in the environment.
# SHUTDOWN (300): seconds that the processes have on a signal to save, before they are killed.
exec bash "$(dirname "$0")/_dist.sh" "$0" train 1 "$@"
