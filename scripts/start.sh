#!/usr/bin/env bash
# All the set-up, then the chat in the browser. Arguments go to `byoai chat` (see its --help), e.g. --port 8600.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The URL of --ollama-url, if it was given.
url_option() {
    local url=""
    while [ $# -gt 0 ]; do
        case "$1" in
            --ollama-url=*) url="${1#*=}" ;;
            --ollama-url) url="${2:-}" ;;
        esac
        shift
    done
    echo "$url"
}

configured_url() {
    "$VENV/bin/python" -c 'from fine_tuning.config import load_config; print(load_config().deployment.ollama_base_url)'
}

# start_ollama URL: starts the installed Ollama if it should run on this machine, and does not yet.
start_ollama() {
    local log="${BYOAI_HOME:-$ROOT/data}/ollama.log" pid
    case "$1" in *127.0.0.1* | *localhost* | *\[::1\]*) ;; *) return ;; esac
    if [ "${BYOAI_ENGINE:-}" = embedded ] || ! have ollama || OLLAMA_HOST="$1" ollama list >/dev/null 2>&1; then return; fi
    mkdir -p "$(dirname "$log")"
    set -m # a process group of its own: Ctrl-C in the chat's terminal does not end it
    OLLAMA_HOST="$1" nohup ollama serve </dev/null >>"$log" 2>&1 &
    pid=$!
    set +m
    say "started Ollama (log: $log). It keeps running when the chat ends; to stop it: kill $pid"
    for _ in $(seq 60); do
        if OLLAMA_HOST="$1" ollama list >/dev/null 2>&1; then return; fi
        if ! kill -0 "$pid" 2>/dev/null; then break; fi
        sleep 0.5
    done
    say "Ollama does not answer at $1: see $log"
}

show_help chat "$@"
set_up base
url="$(url_option "$@")"
start_ollama "${url:-${OLLAMA_HOST:-$(configured_url)}}"
"$VENV/bin/byoai" prepare ${url:+--ollama-url "$url"}
exec "$VENV/bin/byoai" chat "$@"
