#!/usr/bin/env bash
# The study of Jin et al. (2022) on scikit-learn's digits: every run, every figure, and what becomes of each claim.
#
#   examples/jin2022_digits.sh [FAMILY] [FOLDER] [KEY=VALUE …]
#
# FAMILY is lenet (the default) or resnet; runs, scores, figures and tables go into FOLDER (jin2022_digits). What is done
# already is not done again, so a study that was stopped goes on. Shorter ones: LEVELS=8, NOISE='0 0.3', RUNS=2 (scoring
# runs a seed), and overrides for every recipe, such as epochs=3 seeds=[0,1].
set -euo pipefail

family=${1:-lenet}
folder=${2:-jin2022_digits}
overrides=("${@:3}")
levels=${LEVELS:-28}
read -ra noise <<<"${NOISE:-0 0.15 0.3 0.6}"
workers=${WORKERS:-$(nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
runs=(--runs "$folder/runs")
mkdir -p "$folder/scores" "$folder/figures"

prune() { # RECIPE [KEY=VALUE …]
  echo "$1" >&2
  prunecli prune "digits/$family$1" "${@:2}" "${overrides[@]}" "${runs[@]}" --workers "$workers" --progress none -q >/dev/null
}
of() { # the paths of runs by what follows the family in their names
  for name in "$@"; do ls -d "$folder/runs/$family$name"-*; done
}
compare() { # 4: something cannot be compared, such as an optimum that is the dense level; it is told, and the rest is there
  prunecli compare "${runs[@]}" "$@" || [[ $? == 4 ]]
}

# Pruning, extended dense training and width, at every noise level; pruning by other algorithms without noise.
swept="sweep.labels.fraction=[$(IFS=,; echo "${noise[*]}")]"
prune "" "$swept" "procedure.1.times=$levels"
prune _extended "$swept" "procedure.1.times=$levels"
prune _width "$swept"
for algorithm in random synflow layer fine_tuning; do prune "_$algorithm" "procedure.1.times=$levels"; done
prune _weight_rewinding "procedure.$([[ $family == lenet ]] && echo 2 || echo 3).times=$levels"
prune _one_shot

# EL2N of each noise level's labels.
groups=()
for fraction in "${noise[@]}"; do
  score=$folder/scores/$family-$fraction.h5
  prunecli score "digits/$family" "labels.fraction=$fraction" "${overrides[@]}" "${runs[@]}" --seeds "${SEEDS:-0-2}" \
    --runs-per-seed "${RUNS:-10}" --workers "$workers" --output "$score" -q >/dev/null
  groups+=(--groups "$score")
done

# Retrainings that leave examples out: those that pruning improves most, and at each noise those that it misclassifies.
prune _without_improved
for fraction in "${noise[@]}"; do
  [[ $fraction == 0 ]] && continue
  those="{without_misclassified: {run: $family-fraction-$fraction}}"
  prune _without_misclassified "labels.fraction=$fraction" "sweep.examples=[all, $those, {without_random: {like: $those}}]"
done

figures=$folder/figures/$family
compare $(of -fraction _extended-fraction) --plot "$figures-error.svg" --table methods -o "$folder/$family-methods.md"
compare $(of -fraction _width) --plot "$figures-width.svg" >/dev/null
compare $(of _extended-fraction) --plot "$figures-epochs.svg" --figure epochs >/dev/null
compare $(of -fraction) "${groups[@]}" --plot "$figures-subgroups.svg" -o "$folder/$family-levels.md" >/dev/null
compare $(of -fraction) --plot "$figures-parts.svg" --figure parts --table parts -o "$folder/$family-parts.md" >/dev/null
compare $(of -fraction-0) --classes --pictures "$figures-pictures.png" --level 8 -o "$folder/$family-classes.md" >/dev/null
compare "${groups[@]}" --claims jin2022 -o "$folder/$family-claims.md" -o "$folder/$family-claims.json"
