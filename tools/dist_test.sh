#!/usr/bin/env bash
# Test on several GPUs, or in several processes on a CPU:
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# On several machines, on each: NNODES, NODE_RANK and MASTER_ADDR (and PORT) in the environment.
exec bash "$(dirname "$0")/_dist.sh" "$0" test 2 "$@"
