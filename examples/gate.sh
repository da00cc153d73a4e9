#!/usr/bin/env bash
# A gate for CI: fail (exit 5) when pruning to a tenth of the weights costs over 2.5 points of test error.
set -euo pipefail
prunecli prune one_shot epochs=10 --progress none
prunecli compare runs/one_shot-* --fail-if 'last.test_error > dense.test_error + 2.5' --require-n 3
