#!/usr/bin/env bash
# All the set-up that the tests need, then all the tests, against a real Ollama server. Arguments go to pytest, whose exit code
# this is: ./scripts/test.sh tests/engines -k contract
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OLLAMA_MINIMUM=0.17.1 # older ones misread some GGUF files
WORK="$(mktemp -d)"
SERVER="" # process id
trap 'stop; rm -rf "$WORK"' EXIT

stop() {
    if [ -n "$SERVER" ]; then
        kill "$SERVER" 2>/dev/null || true
        wait "$SERVER" 2>/dev/null || true
    fi
}

# What is not a Python package: Chromium for the tests of the pages, a compiler, a checker of these scripts.
install_system_packages() {
    local missing=()
    [ -n "${BYOAI_TEST_CHROMIUM:-}" ] || have chromium || have chromium-browser || missing+=(chromium fonts-liberation)
    have c++ || missing+=(build-essential)
    have shellcheck || missing+=(shellcheck)
    if [ ${#missing[@]} = 0 ]; then return; fi
    if have apt-get && [ "$(id -u)" = 0 ]; then
        say "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >&2
    else
        say "not installed, and tests that need them fail: ${missing[*]}. Debian: sudo apt-get install ${missing[*]}"
    fi
}

# The path of the installed Ollama, if it is new enough, else of one that is built from source.
find_ollama() {
    local version
    if have ollama; then
        # asked where no server is, it tells its own version
        version="$(HOME="$WORK" OLLAMA_HOST=127.0.0.1:1 ollama --version 2>/dev/null | sed -n 's/.*client version is //p')"
        if at_least "${version:-0}" "$OLLAMA_MINIMUM"; then
            command -v ollama
            return
        fi
        say "the installed Ollama (${version:-of unknown version}) is older than $OLLAMA_MINIMUM"
    fi
    "$ROOT/scripts/install_ollama.sh"
}

free_port() { "$VENV/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start_server OLLAMA: on a free port, with models and a home of its own; sets SERVER and what the tests are told of it.
start_server() {
    local port core log="$WORK/ollama.log"
    port="$(free_port)"
    # On one core: its models' threads spin while they wait for each other, which beside tests on the other cores is for ever.
    have taskset && core="taskset -c 0"
    # shellcheck disable=SC2086 # no word at all where there is no taskset
    HOME="$WORK" OLLAMA_HOST="127.0.0.1:$port" OLLAMA_MODELS="$WORK/models" OLLAMA_NO_CLOUD=1 ${core:-} "$1" serve >"$log" 2>&1 &
    SERVER=$!
    export BYOAI_TEST_OLLAMA="http://127.0.0.1:$port" BYOAI_TEST_OLLAMA_PROGRAM="$1"
    for _ in $(seq 120); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        kill -0 "$SERVER" 2>/dev/null || break
        sleep 0.5
    done
    cat "$log" >&2
    fail "Ollama ($1) did not start: see above"
}

unset OLLAMA_HOST OLLAMA_MODELS BYOAI_HOME # the tests set their own
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}" # as in fine_tuning/cli/main.py
install_system_packages
set_up dev
ollama="$(find_ollama)"
BYOAI_TEST_BASE_GGUF="$("$VENV/bin/python" -c 'from fine_tuning.engines.default_base import fetch_default_base; print(fetch_default_base())')"
export BYOAI_TEST_BASE_GGUF
lint
start_server "$ollama"
cd "$ROOT"
# in the order that tests/conftest.py gives: by itself, loadgroup hands out single tests, the slow ones, last
"$VENV/bin/python" -m pytest --numprocesses logical --maxprocesses 2 --dist loadgroup --no-loadscope-reorder "$@"
