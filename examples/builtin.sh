#!/usr/bin/env bash
# Remake the built-in model from the emoji pictures: emoji64/{train,val}/CLASS/SET__NAME.png, 64x64 on white.
# Between four and five hours on one CPU core. Killed or stopped, it goes on where it was when it is run again.
#
#   bash examples/builtin.sh emoji64 build/builtin
set -euo pipefail
pictures=$1
build=$2

maskgit train-vqgan "$pictures/train" --val "$pictures/val" --out "$build/tokenizer-full" --steps 2600 --lr 6e-4 \
  --adversarial-start 1500 --perceptual-weight 0 --checkpoint-every 200 --preview-every 200
# Half precision first: the transformer learns the codes of the tokenizer that is shipped.
[ -e "$build/tokenizer" ] || maskgit export "$build/tokenizer-full" "$build/tokenizer" --half

maskgit tokenize "$pictures/train" "$build/train.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$pictures/val" "$build/val.h5" --tokenizer "$build/tokenizer"
maskgit train "$build/train.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/run" \
  --size tiny --dtype bf16 --batch-size 32 --steps 12000 --lr 1e-3 --warmup 200 --ema 0.999 \
  --checkpoint-every 500 --preview-every 500
# Then for what a sampler asks of it alone: hidden codes, with their own probabilities and not smoothed ones.
maskgit train "$build/train.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/tuned" \
  --init-from "$build/run" --dtype bf16 --batch-size 32 --steps 7000 --lr 5e-4 --warmup 100 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 500
maskgit export "$build/tuned" "$build/model" --half
