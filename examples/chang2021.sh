#!/usr/bin/env bash
# Linear problems and random features of Chang et al. (2021): runs, tables, figures with theory's curves, and the claims.
#
#   examples/chang2021.sh [FOLDER] [KEY=VALUE …]
#
# Runs, figures and tables go into FOLDER (chang2021). What is done already is not done again, so a study that was stopped
# goes on; one with overrides needs a FOLDER of its own. KEY=VALUE goes to every recipe.
# From the environment:
#
#   RECIPES   which recipes: 'identity spiked spiked_strong poly correlated random_features'
#   SEEDS     the seeds of everything: those of the recipes
#   WORKERS   processes side by side: as many as there are processors
#
# It needs bash 4.4.
set -euo pipefail

folder=${1:-chang2021}
overrides=("${@:2}")
read -ra recipes <<<"${RECIPES-identity spiked spiked_strong poly correlated random_features}"
seeds=()
[[ -z ${SEEDS-} ]] || seeds=(--seeds "$SEEDS")
workers=${WORKERS:-$(nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$folder/figures"

all=()
for recipe in "${recipes[@]}"; do
  echo "$recipe" >&2
  printed=$(prunecli prune "chang2021/$recipe" "${overrides[@]}" "${seeds[@]}" --runs "$folder/runs" \
    --workers "$workers" --progress none -q)
  mapfile -t runs <<<"$printed"
  all+=("${runs[@]}")
  prunecli compare "${runs[@]}" "${seeds[@]}" --table theory -o "$folder/$recipe.md" \
    --figure double_descent --plot "$folder/figures/$recipe.svg" >/dev/null
done
prunecli compare "${all[@]}" "${seeds[@]}" --claims chang2021 -o "$folder/claims.md" -o "$folder/claims.json" >/dev/null
echo "tables and figures are in $folder" >&2
