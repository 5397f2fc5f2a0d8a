#!/usr/bin/env bash
# The common part of dist_train.sh and dist_test.sh:
#   _dist.sh CALLER TOOL WORDS [WORD ...] PROCESSES [option ...]
# WORDS is how many words of TOOL come before the number of processes.
set -euo pipefail
caller=$1 tool=$2 words=$3
shift 3
if [ $# -le "$words" ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$caller" >&2
    exit 2
fi
tools=$(cd "$(dirname "$caller")" && pwd)
processes=${@:words+1:1}
export PYTHONPATH="$(dirname "$tools")${PYTHONPATH:+:$PYTHONPATH}"
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    meeting=(--standalone) # any free port, so that several runs fit on one machine
else
    # Elastic: a lost machine may join again; then all resume from the newest checkpoint.
    meeting=(
        --nnodes="${NNODES:-1}"
        --rdzv-backend=c10d
        --rdzv-endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
        --rdzv-id="${RUN_ID:-run}"
    )
    if [ -n "${NODE_RANK:-}" ]; then
        meeting+=(--rdzv-conf="is_host=$([ "$NODE_RANK" = 0 ] && echo true || echo false)")
    fi
    if [ -n "${LOCAL_ADDR:-}" ]; then
        meeting+=(--local-addr="$LOCAL_ADDR")
    fi
fi
# Restarted workers meet through a store of their own: a shared one would return the addresses of those
# that have died.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# On a signal torchrun passes it on, waits so many seconds for the workers to save, and kills them. Its
# own list has no USR1. As variables, because older versions of torchrun have no such options.
export PET_SHUTDOWN_TIMEOUT="${SHUTDOWN:-300}"
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
exec "${PYTHON:-python}" -m torch.distributed.run "${meeting[@]}" \
    --nproc_per_node="$processes" --max-restarts="${MAX_RESTARTS:-0}" \
    "$tools/$tool.py" "${@:1:words}" --launcher pytorch "${@:words+2}"
