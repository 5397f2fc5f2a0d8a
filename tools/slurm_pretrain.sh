#!/usr/bin/env bash
# Pre-train under Slurm:
#   [GPUS=8] tools/slurm_pretrain.sh PARTITION JOB CONFIG WORK_DIR [options of tools/pretrain.py]
# GPUS, GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS may be set in the environment. A batch job with
# '#SBATCH --signal=USR1@120' saves 2 minutes before its end, and is queued again.
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
tools=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
export PYTHONPATH="$(dirname "$tools")${PYTHONPATH:+:$PYTHONPATH}"
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
code=0
srun -p "$1" --job-name="$2" --gres="gpu:$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "${PYTHON:-python}" -u "$tools/pretrain.py" "$3" --work-dir "$4" --launcher slurm "${@:5}" || code=$?
# 75: it received a signal to stop, and has saved (downstream/running/hooks/preemption.py).
if [ "$code" = 75 ] && [ -n "${SLURM_JOB_ID:-}" ] && command -v scontrol > /dev/null; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
