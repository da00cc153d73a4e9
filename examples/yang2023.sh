#!/usr/bin/env bash
# Pruning before training as Yang et al. (2023) study it: two patches of signal and noise, and digits with noise on the
# inputs; runs, tables, figures, and what becomes of each claim.
#
#   examples/yang2023.sh [FOLDER] [KEY=VALUE …]
#
# Runs, figures and tables go into FOLDER (yang2023). What is done already is not done again, so a study that was stopped
# goes on; one with overrides needs a FOLDER of its own. KEY=VALUE goes to every recipe.
# From the environment:
#
#   PATCHES   recipes on two patches: 'patches patches_excessive patches_relu'
#   NOISE     recipes with noise on the inputs: 'digits_noise_random digits_noise_imp'; '' leaves them out
#   SEEDS     the seeds of everything: those of the recipes
#   WORKERS   processes side by side: as many as there are processors
#
# It needs bash 4.4.
set -euo pipefail

folder=${1:-yang2023}
overrides=("${@:2}")
read -ra patches <<<"${PATCHES-patches patches_excessive patches_relu}"
read -ra noise <<<"${NOISE-digits_noise_random digits_noise_imp}"
seeds=()
[[ -z ${SEEDS-} ]] || seeds=(--seeds "$SEEDS")
workers=${WORKERS:-$(nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$folder/figures"

all=()
prune() { # RECIPE: the folders of its runs, in the array `runs`
  local printed
  echo "$1" >&2
  printed=$(prunecli prune "yang2023/$1" "${overrides[@]}" "${seeds[@]}" --runs "$folder/runs" \
    --workers "$workers" --progress none -q) || return
  mapfile -t runs <<<"$printed"
  all+=("${runs[@]}")
}
tabulate() { # NAME RUN…: the table and the figure of runs over densities
  prunecli compare "${@:2}" "${seeds[@]}" --table thresholds -o "$folder/$1.md" \
    --figure thresholds --plot "$folder/figures/$1.svg" >/dev/null
}

for recipe in "${patches[@]}"; do
  prune "$recipe"
  tabulate "$recipe" "${runs[@]}"
  prunecli compare "${runs[@]}" "${seeds[@]}" --figure learned --plot "$folder/figures/${recipe}_learned.svg" >/dev/null
done
noisy=()
for recipe in "${noise[@]}"; do
  prune "$recipe"
  noisy+=("${runs[@]}")
done
[[ ${#noisy[@]} == 0 ]] || tabulate noise "${noisy[@]}"
prunecli compare "${all[@]}" "${seeds[@]}" --claims yang2023 -o "$folder/claims.md" -o "$folder/claims.json" >/dev/null
echo "tables and figures are in $folder" >&2
