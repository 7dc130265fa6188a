#!/usr/bin/env bash
# The paper's Figure 2: what each setting of the sampler, and training itself, does to FID and Inception Score,
# with the other settings at their defaults.
#
#   bash examples/figure2.sh models/maskgit-256 imagenet-val.npz figure2 10000
#   bash examples/figure2.sh builtin emoji64/val figure2 18 --features vqgan
#
# The arguments are the model, what `fid` compares with, where to put the sweeps, and the number of images a point (the
# report's numbers are of 50000). What follows goes to every sweep; --features vqgan needs no Inception weights.
# Killed or stopped, it resumes when it is run again. Plots: OUT/*/plots/, best points: OUT/*/sweep.json.
set -euo pipefail
run=$1 ref=$2 out=$3 n=$4
shift 4
common=(--ref "$ref" --n "$n" "$@")
# The paper's sampler, also for a model whose default sampler is another.
sampler=(--sampler confidence "${common[@]}")

maskgit sweep "$run" --out "$out/steps" --steps 4,6,8,10,12,15 "${sampler[@]}"
maskgit sweep "$run" --out "$out/guidance" --cfg 0:6:1 "${sampler[@]}"
maskgit sweep "$run" --out "$out/gumbel" --gumbel-temp 0:9:1.5 "${sampler[@]}"
maskgit sweep "$run" --out "$out/schedule" --schedule root,linear,square,cosine,arccos "${sampler[@]}"

# Training: the checkpoints that `train --keep` left of a run, if there are several.
checkpoints=("$run"/checkpoints/step-*)
if ((${#checkpoints[@]} > 1)); then
  maskgit sweep "${checkpoints[@]}" --out "$out/training" "${common[@]}"
fi
