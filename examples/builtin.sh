#!/usr/bin/env bash
# Remake the built-in model from the emoji pictures: emoji64/{train,val}/CLASS/SET__NAME.png, 64x64 on white.
# Six and a half hours on two CPU cores. Killed or stopped, it goes on where it was when it is run again.
#
#   bash examples/builtin.sh emoji64 build/builtin
set -euo pipefail
pictures=$1
build=$2
# Networks this small gain more from a second process than from a second thread.
export OMP_NUM_THREADS=1
mkdir -p "$build"

maskgit --procs 2 train-vqgan "$pictures/train" --val "$pictures/val" --out "$build/tokenizer-full" --size local \
  --dtype bf16 --batch-size 16 --steps 3500 --lr 1.5e-3 --beta1 0.9 --beta2 0.99 --smoothness-weight 0.05 \
  --adversarial-weight 0 --perceptual-weight 0 --checkpoint-every 500 --preview-every 500 --workers 0
# Half precision first: the transformer learns the codes of the tokenizer that is shipped.
[ -e "$build/tokenizer" ] || maskgit export "$build/tokenizer-full" "$build/tokenizer" --half

# Classes whose pictures differ most from one another are listed several times, and so seen more often.
list() { # LIST CLASS=TIMES...
  local file class times more
  echo path,label > "$1"
  for class in "$pictures"/train/*; do
    times=1
    for more in "${@:2}"; do [ "${more%=*}" != "${class##*/}" ] || times=${more#*=}; done
    for file in "$class"/*.png; do
      for ((i = 0; i < times; i++)); do
        echo "$(realpath "$file"),${class##*/}"
      done
    done
  done >> "$1"
}
list "$build/train.csv" activities=2 animals-nature=2 food-drink=2 objects=2 travel-places=2
list "$build/train3.csv" activities=6 objects=3 animals-nature=2 food-drink=2
list "$build/train4.csv" activities=6 objects=4 animals-nature=3 food-drink=2
maskgit tokenize "$pictures/train" "$build/train.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train.csv" "$build/train2.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train3.csv" "$build/train3.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train4.csv" "$build/train4.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$pictures/val" "$build/val.h5" --tokenizer "$build/tokenizer"

# Not the report's recipe, which is for a million pictures: no dropout, no smoothing, no loss on known codes.
maskgit --procs 2 train "$build/train.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/run" \
  --size small --dtype bf16 --batch-size 32 --steps 9000 --lr 1e-3 --warmup 200 --lr-floor 0.05 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 1000
maskgit --procs 2 train "$build/train2.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/more" \
  --init-from "$build/run" --dtype bf16 --batch-size 32 --steps 21000 --lr 8e-4 --warmup 200 --lr-floor 0.03 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 3000
maskgit --procs 2 train "$build/train3.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/more2" \
  --init-from "$build/more" --dtype bf16 --batch-size 32 --steps 20000 --lr 8e-4 --warmup 200 --lr-floor 0.03 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 3000
maskgit --procs 2 train "$build/train4.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/more3" \
  --init-from "$build/more2" --dtype bf16 --batch-size 32 --steps 17500 --lr 8e-4 --warmup 200 --lr-floor 0.03 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 3000
maskgit export "$build/more3" "$build/model" --half --preset halton --cfg 1 --sm-temp 2 --sm-temp-end 2
