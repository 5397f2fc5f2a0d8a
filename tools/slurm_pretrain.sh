#!/usr/bin/env bash
# Pre-train under Slurm:
#   [GPUS=8] tools/slurm_pretrain.sh PARTITION JOB CONFIG WORK_DIR [options of tools/pretrain.py]
# GPUS, GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS may be set in the environment. A batch job with
# '#SBATCH --signal=USR1@120' saves 2 minutes before its end, and is queued again.
exec bash "$(dirname "$0")/_slurm.sh" "$0" pretrain "$@"
