#!/usr/bin/env bash
# The paper's 512 px experiment (arXiv 2310.14400, section 4): the 256 px model, fine-tuned on 32×32 tokens.
#
#   IMAGENET=/data/imagenet PROCS=8 bash examples/imagenet512.sh
#
# INIT_FROM is the 256 px model: the published one, or the run of examples/imagenet256.sh (imagenet256/run). The other
# variables are those of imagenet256.sh, MASKGIT_MINIATURE=1 too: it fine-tunes that script's miniature at 128 px.
set -euo pipefail
IMAGENET=${IMAGENET:-imagenet} # Kaggle's layout
OUT=${OUT:-imagenet512}        # all results
PROCS=${PROCS:-8}              # processes, one per GPU
WORKERS=${WORKERS:-8}          # that read images, of each process
SAMPLES=${SAMPLES:-50000}
INIT_FROM=${INIT_FROM:-models/maskgit-256}
TOKENIZER=$INIT_FROM # the model's own: another one would give other tokens
RES=512
train=(--recipe paper --epochs 300 --batch-size auto) # 128 images per step at 512 px
sampler=(--preset paper-512)
protocol=(--protocol legacy-v1) # the paper's evaluator; "()" is that of most papers
features=(--features inception)
device=()
if [[ -n ${MASKGIT_MINIATURE:-} ]]; then
  RES=128 SAMPLES=4 PROCS=1 WORKERS=0
  train=(--steps 2 --batch-size 2 --warmup 1 --preview-every 0)
  sampler=(--steps 2)
  protocol=()
  features=(--features vqgan --tokenizer builtin)
  device=(--device cpu)
fi
images=$IMAGENET/ILSVRC/Data/CLS-LOC
mkdir -p "$OUT"

[[ $INIT_FROM != models/maskgit-256 || -e $INIT_FROM ]] || maskgit pull maskgit-256

maskgit --procs "$PROCS" tokenize "$images/train" "$OUT/train.h5" --tokenizer "$TOKENIZER" --res "$RES" --views flip \
  --workers "$WORKERS" "${device[@]}"
maskgit --procs "$PROCS" tokenize "$images/val" "$OUT/val.h5" --tokenizer "$TOKENIZER" --res "$RES" \
  --workers "$WORKERS" "${device[@]}"

# Memory, hours and disk, before they are spent.
maskgit --procs "$PROCS" train "$OUT/train.h5" --val "$OUT/val.h5" --init-from "$INIT_FROM" "${train[@]}" \
  "${device[@]}" --dry-run
maskgit --procs "$PROCS" train "$OUT/train.h5" --val "$OUT/val.h5" --init-from "$INIT_FROM" --out "$OUT/run" \
  "${train[@]}" "${device[@]}"

maskgit --procs "$PROCS" sample "$OUT/run" --out "$OUT/samples" --n "$SAMPLES" "${sampler[@]}" "${device[@]}"
maskgit --procs "$PROCS" fid-stats "$images/val" "$OUT/val.npz" --res "$RES" --with-features "${protocol[@]}" \
  "${features[@]}" "${device[@]}"
maskgit --procs "$PROCS" fid "$OUT/samples" --ref "$OUT/val.npz" "${protocol[@]}" "${features[@]}" "${device[@]}"
