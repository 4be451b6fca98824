#!/usr/bin/env bash
# Learns from the chats since the last time and makes the new model live. Arguments, and the exit code, are those of
# `byoai retrain` (see its --help); 9: the set-up failed. Runs from any folder and from cron, e.g. every night at 3:
#   0 3 * * * /path/to/byoai/scripts/retrain.sh --if-new 20
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

show_help retrain "$@"
set_up base
exec "$VENV/bin/byoai" retrain "$@"
