#!/usr/bin/env bash
# A training under Slurm, on any number of nodes, that requeues itself until it is finished.
#
#   sbatch examples/slurm_train.sh tokens.h5 runs/big --size big --batch-size auto
#   sbatch --nodes 1 --time 2:00:00 examples/slurm_train.sh tokens.h5 runs/trial --steps 1000
#
# The arguments are the token file, the run directory and any options of `maskgit train`. Files must lie on a disk that all
# nodes share. One task per GPU: --ntasks-per-node is the number of GPUs of a node.
#SBATCH --job-name=maskgit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=6
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Five minutes before the time limit: every task finishes its step, writes a checkpoint, and exits with 130.
#SBATCH --signal=TERM@300
set -euo pipefail
tokens=$1 out=$2
shift 2

# The tasks meet at the first node.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
export MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 50000))}
export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# A task that waits for another gives up after so many minutes: a node that died ends the job, which can be requeued.
timeout=${NCCL_TIMEOUT_MINUTES:-10}

status=0
# Slurm numbers the tasks as torch numbers ranks. The quotes are right: each task expands its own numbers.
# shellcheck disable=SC2016
srun --wait=300 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec maskgit "$@"' task \
  --nccl-timeout "$timeout" train "$tokens" --out "$out" "$@" || status=$?
if ((status == 130)); then
  scontrol requeue "$SLURM_JOB_ID" # the same command resumes from the checkpoint
fi
exit "$status"
