#!/usr/bin/env bash
# The paper's 256 px experiment (arXiv 2310.14400, section 4): ImageNet to tokens, 300 epochs, 50,000 samples, FID.
#
#   IMAGENET=/data/imagenet PROCS=8 bash examples/imagenet256.sh
#
# IMAGENET is Kaggle's copy: ILSVRC/Data/CLS-LOC/{train,val} and, for the labels of val, LOC_val_solution.csv. Killed or
# stopped, the script resumes when it is run again. MASKGIT_MINIATURE=1 runs the same lines at 64 px, with the built-in
# tokenizer, a tiny network and two steps on a CPU, to see that they fit your folders before anything is spent.
set -euo pipefail
IMAGENET=${IMAGENET:-imagenet} # Kaggle's layout
OUT=${OUT:-imagenet256}        # all results
PROCS=${PROCS:-8}              # processes, one per GPU
WORKERS=${WORKERS:-8}          # that read images, of each process
SAMPLES=${SAMPLES:-50000}
TOKENIZER=${TOKENIZER:-models/maskgit-256} # the paper's, downloaded; or one from `maskgit train-vqgan`
RES=256
train=(--recipe paper --size base --epochs 300 --batch-size auto)
sampler=(--preset paper-256)
protocol=(--protocol legacy-v1) # the paper's evaluator; "()" is that of most papers
features=(--features inception)
device=()
if [[ -n ${MASKGIT_MINIATURE:-} ]]; then
  TOKENIZER=builtin RES=64 SAMPLES=4 PROCS=1 WORKERS=0
  train=(--size tiny --steps 2 --batch-size 2 --warmup 1 --preview-every 0)
  sampler=(--steps 2)
  protocol=()
  features=(--features vqgan --tokenizer builtin)
  device=(--device cpu)
fi
images=$IMAGENET/ILSVRC/Data/CLS-LOC
mkdir -p "$OUT"

[[ $TOKENIZER != models/maskgit-256 || -e $TOKENIZER ]] || maskgit pull maskgit-256

# Each image is tokenized once, with its mirror image; the training reads no pixels.
maskgit --procs "$PROCS" tokenize "$images/train" "$OUT/train.h5" --tokenizer "$TOKENIZER" --res "$RES" --views flip \
  --workers "$WORKERS" "${device[@]}"
maskgit --procs "$PROCS" tokenize "$images/val" "$OUT/val.h5" --tokenizer "$TOKENIZER" --res "$RES" \
  --workers "$WORKERS" "${device[@]}"

# Memory, hours and disk, before they are spent.
maskgit --procs "$PROCS" train "$OUT/train.h5" --val "$OUT/val.h5" "${train[@]}" "${device[@]}" --dry-run
maskgit --procs "$PROCS" train "$OUT/train.h5" --val "$OUT/val.h5" --tokenizer "$TOKENIZER" --out "$OUT/run" \
  "${train[@]}" "${device[@]}"

maskgit --procs "$PROCS" sample "$OUT/run" --out "$OUT/samples" --n "$SAMPLES" "${sampler[@]}" "${device[@]}"
maskgit --procs "$PROCS" fid-stats "$images/val" "$OUT/val.npz" --res "$RES" --with-features "${protocol[@]}" \
  "${features[@]}" "${device[@]}"
maskgit --procs "$PROCS" fid "$OUT/samples" --ref "$OUT/val.npz" "${protocol[@]}" "${features[@]}" "${device[@]}"
