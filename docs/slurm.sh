#!/bin/bash
#SBATCH --job-name=nanogpkant
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --open-mode=append

# One torchrun a node; it starts a process for every GPU. The folder that this is submitted from has
# to be on a file system that all nodes share. Requeued, or with a process lost, the run goes on from
# its last checkpoint.
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc_per_node 8 --max-restarts 3 \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:29500" \
    -m nanogpkant train "${PRESET:-quickstart_kan}" --auto_resume
