#!/usr/bin/env bash
# The study of Bartoldson et al. (2020) on scikit-learn's digits: its runs, tables and figures, and what becomes of each claim.
#
#   examples/bartoldson2020_digits.sh [FOLDER] [KEY=VALUE …]
#
# Runs, figures and tables go into FOLDER (bartoldson2020_digits). What is done already is not done again, so a study that was
# stopped goes on; one with overrides needs a FOLDER of its own. KEY=VALUE goes to every recipe, such as model.width=0.25.
# From the environment:
#
#   PARTS     what is done beside the three targets, the finest pruning and the two baselines: 'rates noise restore';
#             '' is the shortest study, which has no answer to A4 and A6
#   SEEDS     the seeds of everything: 0-4
#   WORKERS   processes side by side: as many as there are processors
#
# It needs bash 4.4.
set -euo pipefail

folder=${1:-bartoldson2020_digits}
overrides=("${@:2}")
read -ra parts <<<"${PARTS-rates noise restore}"
seeds=(--seeds "${SEEDS:-0-4}")
workers=${WORKERS:-$(nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
runs=(--runs "$folder/runs")

refuse() { echo "bartoldson2020_digits.sh: $1" >&2; exit 2; }
for part in "${parts[@]}"; do
  [[ $part =~ ^(rates|noise|restore)$ ]] || refuse "PARTS has '$part'; there are rates, noise and restore"
done
mkdir -p "$folder/figures"

prune() { # ARRAY RECIPE: the folders of the recipe's runs are put at the end of the array
  local -n into=$1
  local printed
  echo "digits_vgg11$2" >&2
  printed=$(prunecli prune "bartoldson2020/digits_vgg11$2" "${overrides[@]}" "${seeds[@]}" "${runs[@]}" \
    --workers "$workers" --progress none -q) || return
  mapfile -t -O "${#into[@]}" into <<<"$printed"
}
compare() { # 4: something cannot be compared, such as a quantity that too few runs have; it is told, and the rest is there
  prunecli compare "$@" "${seeds[@]}" "${runs[@]}" || [[ $? == 4 ]]
}

# Figure 2: the finest pruning, three targets at one rate, and the baselines without pruning and pruned before training.
tradeoff=() baselines=() others=()
prune tradeoff _fine
prune tradeoff ""
prune baselines _none
prune baselines _scratch
# Figure 3, and Figures 5 and D2.
for part in "${parts[@]}"; do prune others "_$part"; done
# A run that two recipes have is one run.
mapfile -t all < <(printf '%s\n' "${tradeoff[@]}" "${baselines[@]}" "${others[@]}" | awk 'NF && !seen[$0]++')

figures=$folder/figures
compare "${all[@]}" --table stability -o "$folder/stability.md" >/dev/null
compare "${tradeoff[@]}" --correlate stability -o "$folder/correlations.md" --plot "$figures/stability.svg" >/dev/null
compare "${tradeoff[@]}" --plot "$figures/training.svg" --figure training >/dev/null
compare "${all[@]}" --claims bartoldson2020 -o "$folder/claims.md" -o "$folder/claims.json"
