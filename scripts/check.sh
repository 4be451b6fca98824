#!/usr/bin/env bash
# The quick loop: style, types and the unit tests that need no server and no browser. Arguments go to pytest.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

set_up dev
lint
cd "$ROOT"
exec "$VENV/bin/python" -m pytest -m "not engine and not browser and not slow" "$@"
