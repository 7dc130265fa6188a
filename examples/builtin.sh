#!/usr/bin/env bash
# Remake the built-in model from the emoji images: emoji64/{train,val}/CLASS/SET__NAME.png, 64x64 on white.
# Eleven and a half hours on two CPU cores. Killed or stopped, it resumes when it is run again.
#
#   bash examples/builtin.sh emoji64 build/builtin
set -euo pipefail
images=$1
build=$2
# Networks this small gain more from a second process than from a second thread.
export OMP_NUM_THREADS=1
mkdir -p "$build"

maskgit --procs 2 train-vqgan "$images/train" --val "$images/val" --out "$build/tokenizer-full" --size local \
  --dtype bf16 --batch-size 16 --steps 3500 --lr 1.5e-3 --beta1 0.9 --beta2 0.99 --smoothness-weight 0.05 \
  --adversarial-weight 0 --perceptual-weight 0 --checkpoint-every 500 --preview-every 500 --workers 0
# Half precision first: the transformer learns the codes of the tokenizer that is shipped.
[ -e "$build/tokenizer" ] || maskgit export "$build/tokenizer-full" "$build/tokenizer" --half

# Classes whose images differ most from one another are listed several times, and so seen more often; with a SET, of
# its images alone.
list() { # LIST CLASS[/SET]=TIMES...
  local file class set times more
  echo path,label > "$1"
  for class in "$images"/train/*; do
    set='' times=1
    for more in "${@:2}"; do
      case $more in
        "${class##*/}="*) times=${more#*=} ;;
        "${class##*/}/"*) set=${more#*/} set=${set%=*}__ times=${more#*=} ;;
      esac
    done
    for file in "$class/$set"*.png; do
      for ((i = 0; i < times; i++)); do
        echo "$(realpath "$file"),${class##*/}"
      done
    done
  done >> "$1"
}
list "$build/train.csv" activities=2 animals-nature=2 food-drink=2 objects=2 travel-places=2
list "$build/train3.csv" activities=6 objects=3 animals-nature=2 food-drink=2
list "$build/train4.csv" activities=6 objects=4 animals-nature=3 food-drink=2
list "$build/train5.csv" activities=6 objects=5 food-drink=4 animals-nature=3
list "$build/train6.csv" activities/twemoji=14 objects/twemoji=14 animals-nature/twemoji=10 food-drink/twemoji=10
list "$build/train7.csv" activities/twemoji=10 animals-nature/twemoji=9 food-drink/twemoji=9 objects/twemoji=9 \
  travel-places/twemoji=14
maskgit tokenize "$images/train" "$build/train.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train.csv" "$build/train2.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train3.csv" "$build/train3.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train4.csv" "$build/train4.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train5.csv" "$build/train5.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train6.csv" "$build/train6.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$build/train7.csv" "$build/train7.h5" --tokenizer "$build/tokenizer"
maskgit tokenize "$images/val" "$build/val.h5" --tokenizer "$build/tokenizer"

# Not the paper's recipe, which is for a million images: no dropout, no smoothing, no loss on known codes.
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
maskgit --procs 2 train "$build/train5.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/more4" \
  --init-from "$build/more3" --dtype bf16 --batch-size 32 --steps 18500 --lr 8e-4 --warmup 200 --lr-floor 0.03 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 3000
maskgit --procs 2 train "$build/train6.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/more5" \
  --init-from "$build/more4" --dtype bf16 --batch-size 32 --steps 15500 --lr 8e-4 --warmup 200 --lr-floor 0.03 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 3000
# The last training starts from the EMA weights at half precision: those of the previous built-in model.
[ -e "$build/model6" ] || maskgit export "$build/more5" "$build/model6" --half
maskgit --procs 2 train "$build/train7.h5" --val "$build/val.h5" --tokenizer "$build/tokenizer" --out "$build/more6" \
  --init-from "$build/model6" --dtype bf16 --batch-size 32 --steps 15500 --lr 8e-4 --warmup 200 --lr-floor 0.03 --ema 0.999 \
  --dropout 0 --label-smoothing 0 --loss-on masked --checkpoint-every 500 --preview-every 3000
maskgit export "$build/more6" "$build/model" --half --preset halton --cfg 0.7 --sm-temp 1.5 --sm-temp-end 6
