#!/usr/bin/env bash
# chisep for QSM-CI: bash run.sh INPUT_FOLDER OUTPUT_FOLDER
# The runner sets QSMCI_SET_VARIANT for `--set variant=NAME`. CHISEP_PYTHON names a Python that has chisep, if python3 on
# the path is not the one.
set -euo pipefail
folder="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${CHISEP_PYTHON:-python3}"
# -P: a checkout in the current folder is not an installation
"$python" -P -c 'import custom_transforms' 2>/dev/null || {
    echo "chisep: $python has no chisep; install it there, or name another one: CHISEP_PYTHON=.venv/bin/python" >&2
    exit 2
}
exec "$python" "$folder/chisep_qsm_ci.py" "${1:-/input}" "${2:-/output}" "${QSMCI_SET_VARIANT:-unrolled}"
