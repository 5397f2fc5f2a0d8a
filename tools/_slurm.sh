#!/usr/bin/env bash
# The common part of slurm_train.sh and slurm_pretrain.sh:
#   _slurm.sh CALLER TOOL PARTITION JOB CONFIG WORK_DIR [option ...]
set -euo pipefail
caller=$1 tool=$2
shift 2
if [ $# -lt 4 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$caller" >&2
    exit 2
fi
tools=$(cd "$(dirname "$caller")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
export PYTHONPATH="$(dirname "$tools")${PYTHONPATH:+:$PYTHONPATH}"
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
code=0
srun -p "$1" --job-name="$2" --gres="gpu:$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "${PYTHON:-python}" -u "$tools/$tool.py" "$3" --work-dir "$4" --launcher slurm "${@:5}" || code=$?
# 75: it received a signal to stop, and has saved (downstream/running/hooks/preemption.py).
if [ "$code" = 75 ] && [ -n "${SLURM_JOB_ID:-}" ] && command -v scontrol > /dev/null; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
