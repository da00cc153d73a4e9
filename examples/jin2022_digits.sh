#!/usr/bin/env bash
# The study of Jin et al. (2022) on scikit-learn's digits: every run, every figure, and what becomes of each claim.
#
#   examples/jin2022_digits.sh [FAMILY] [FOLDER] [KEY=VALUE …]
#
# FAMILY is lenet (the default) or resnet; runs, scores, figures and tables go into FOLDER (jin2022_digits). What is done
# already is not done again, so a study that was stopped goes on; one with other levels or overrides needs a FOLDER of its
# own. KEY=VALUE goes to every recipe, such as epochs=3. From the environment:
#
#   LEVELS    how often is pruned: 28, and 8 at least, since the retrainings ask for levels 4 and 8
#   NOISE     fractions of noisy labels, 0 among them: '0 0.15 0.3 0.6'; a short study has '0 0.3', or 0 alone
#   SEEDS     the seeds of everything: 0-2
#   RUNS      scoring runs to average: 10
#   WORKERS   processes side by side: as many as there are processors
#
# It needs bash 4.4.
set -euo pipefail

family=${1:-lenet}
folder=${2:-jin2022_digits}
overrides=("${@:3}")
levels=${LEVELS:-28}
read -ra noise <<<"${NOISE:-0 0.15 0.3 0.6}"
seeds=(--seeds "${SEEDS:-0-2}")
workers=${WORKERS:-$(nproc)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
runs=(--runs "$folder/runs")
noisy=()
for fraction in "${noise[@]}"; do
  [[ $fraction == 0 ]] || noisy+=("$fraction")
done

refuse() { echo "jin2022_digits.sh: $1" >&2; exit 2; }
[[ $levels =~ ^[0-9]+$ ]] && ((10#$levels >= 8)) || refuse "LEVELS is '$levels'; give a number, 8 at least"
((${#noise[@]} == ${#noisy[@]} + 1)) || refuse "NOISE is '${noise[*]}'; give 0 once, and other fractions as you like"
mkdir -p "$folder/scores" "$folder/figures"

prune() { # ARRAY RECIPE [KEY=VALUE …]: the folders of the recipe's runs are put at the end of the array
  local -n into=$1
  local printed
  echo "$family$2" >&2
  printed=$(prunecli prune "digits/$family$2" "${@:3}" "${overrides[@]}" "${seeds[@]}" "${runs[@]}" \
    --workers "$workers" --progress none -q) || return
  mapfile -t -O "${#into[@]}" into <<<"$printed"
}
compare() { # 4: something cannot be compared, such as an optimum that is the dense level; it is told, and the rest is there
  prunecli compare "$@" "${seeds[@]}" "${runs[@]}" || [[ $? == 4 ]]
}

# Pruning, extended dense training and width, at every noise level; pruning by other algorithms without noise.
imp=() extended=() width=() others=() retrained=()
swept="sweep.labels.fraction=[$(IFS=,; echo "${noise[*]}")]"
prune imp "" "$swept" "procedure.1.times=$levels"
prune extended _extended "$swept" "procedure.1.times=$levels"
prune width _width "$swept"
for algorithm in random synflow layer fine_tuning; do prune others "_$algorithm" "procedure.1.times=$levels"; done
if [[ $family == lenet ]]; then repeat=2; else repeat=3; fi
prune others _weight_rewinding "procedure.$repeat.times=$levels"
prune others _one_shot

# EL2N of each noise level's labels: without noise all seeds have the same, and one row of scores serves them all.
groups=()
for fraction in "${noise[@]}"; do
  score=$folder/scores/$family-$fraction.h5
  rows=("${seeds[@]}")
  [[ $fraction == 0 ]] && rows=()
  echo "EL2N of $family, noise $fraction" >&2
  prunecli score "digits/$family" "labels.fraction=$fraction" "${overrides[@]}" "${rows[@]}" "${runs[@]}" \
    --runs-per-seed "${RUNS:-10}" --workers "$workers" --output "$score" -q >/dev/null
  groups+=(--groups "$score")
done

# Retrainings that leave examples out: those that pruning improves most and those that it harms most, and at each noise
# those that it misclassifies. 2: no level is better than dense, so there is none to say what pruning harms; it is told.
prune retrained _without_improved
prune retrained _without_harmed || [[ $? == 2 ]]
for fraction in "${noisy[@]}"; do
  those="{without_misclassified: {run: $family-fraction-$fraction}}"
  prune retrained _without_misclassified "labels.fraction=$fraction" \
    "sweep.examples=[all, $those, {without_random: {like: $those}}]"
done

figures=$folder/figures/$family
compare "${imp[@]}" "${extended[@]}" --plot "$figures-error.svg" >/dev/null
compare "${imp[@]}" "${extended[@]}" "${width[@]}" --table methods -o "$folder/$family-methods.md"
compare "${imp[@]}" "${width[@]}" --plot "$figures-width.svg" >/dev/null
compare "${extended[@]}" --plot "$figures-epochs.svg" --figure epochs >/dev/null
compare "${imp[@]}" "${groups[@]}" --plot "$figures-subgroups.svg" -o "$folder/$family-levels.md" >/dev/null
if ((${#noisy[@]})); then
  compare "${imp[@]}" --plot "$figures-parts.svg" --figure parts --table parts -o "$folder/$family-parts.md" >/dev/null
fi
compare "$family-fraction-0" --classes --pictures "$figures-pictures.png" --level 8 -o "$folder/$family-classes.md" >/dev/null
compare "${imp[@]}" "${extended[@]}" "${width[@]}" "${others[@]}" "${retrained[@]}" "${groups[@]}" --claims jin2022 \
  -o "$folder/$family-claims.md" -o "$folder/$family-claims.json"
