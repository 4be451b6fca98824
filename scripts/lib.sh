# shellcheck shell=bash
# The set-up that all scripts share: sourced, never run. Works with bash 3.2 (macOS).
#
# All that is fetched or compiled lies in the user's cache folder (the same one as fine_tuning/paths.py names), so that a new
# virtual environment takes seconds. A failed set-up exits with SET_UP_FAILED, which `byoai` itself never returns.
set -euo pipefail

SET_UP_FAILED=9
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="${BYOAI_VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac
case "$(uname -s)" in
    Darwin) CACHE="${XDG_CACHE_HOME:-$HOME/Library/Caches}/byoai" ;;
    *) CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/byoai" ;;
esac
export UV_CACHE_DIR="${UV_CACHE_DIR:-$CACHE/uv}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONDONTWRITEBYTECODE # many containers set it: every start would compile all of PyTorch anew, for 20 seconds
PATH="$PATH:/usr/local/bin:/opt/homebrew/bin" # cron's is shorter than a terminal's

say() { printf 'byoai: %s\n' "$*" >&2; }

fail() {
    say "$@"
    exit "$SET_UP_FAILED"
}

have() { command -v "$1" >/dev/null 2>&1; }

# show_help COMMAND ARGUMENTS: if they ask for help, what the script says of itself and the command's own help, and nothing is set up.
show_help() {
    local command="$1"
    shift
    case " $* " in *" --help "* | *" -h "*) ;; *) return 0 ;; esac
    sed -n '2,/^[^#]/s/^# //p' "$0"
    if [ -x "$VENV/bin/byoai" ]; then exec "$VENV/bin/byoai" "$command" --help; fi
    exit 0
}

# set_up base|dev: the virtual environment with all that requirements.txt names and `byoai` itself; dev adds what the tests need.
# Does nothing, at once, when that was done before and nothing it depends on has changed.
set_up() {
    local kind="$1" python
    if is_set_up "$kind"; then return; fi
    python="$(find_python)"
    exec 9<"$ROOT/requirements.txt"
    lock "$python"
    if ! is_set_up "$kind"; then # else another set-up did it while this one waited
        install_all "$kind" "$python"
    fi
    exec 9<&-
}

is_set_up() { [ -x "$VENV/bin/byoai" ] && [ "$(cat "$VENV/.set-up-$1" 2>/dev/null)" = "$(fingerprint)" ]; }

# What the virtual environment depends on, as one short line.
fingerprint() {
    {
        cat "$ROOT/requirements.txt" "$ROOT/pyproject.toml"
        echo "$ROOT" # the package is installed as a link to this folder
        "$VENV/bin/python" -V 2>&1 || true
        take_flags
        echo "$(build_flags) ${CMAKE_ARGS:-} ${CFLAGS:-} ${CXXFLAGS:-}"
        processor
    } | cksum
}

# The processor's instruction sets: native code that was compiled for other ones may crash.
processor() {
    uname -sm
    if [ -r /proc/cpuinfo ]; then
        { grep -m1 -E '^(flags|Features)' /proc/cpuinfo || true; } | tr ' ' '\n' |
            { grep -E '^(sse4|avx|amx|fma|f16c|bmi2|asimd|sve|sme|i8mm|bf16)' || true; } | sort
    else
        sysctl -n machdep.cpu.brand_string 2>/dev/null || true
    fi
}

# What llama.cpp is compiled with beside the person's own flags, where the compilers know it.
# No AMX until the pinned llama-cpp-python holds the fix of ggml-org/llama.cpp pull request 26954: the compiler drops the tile
# configuration, and the first token is an illegal instruction.
build_flags() {
    case "$(uname -m)" in x86_64 | amd64) echo "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" ;; esac
}

# A shell that says nothing of flags (cron's) means those that the environment was made with.
take_flags() {
    if [ -n "${CMAKE_ARGS+set}${CFLAGS+set}${CXXFLAGS+set}" ] || [ ! -r "$VENV/.flags" ]; then return; fi
    { IFS= read -r CMAKE_ARGS && IFS= read -r CFLAGS && IFS= read -r CXXFLAGS; } <"$VENV/.flags" || true
}

# What CMake is told once the build for this very processor has failed: only what nearly all processors of its kind can, and it can.
portable_flags() {
    local known set
    known="$(processor)"
    printf '%s' "-DGGML_NATIVE=OFF"
    case "$known" in *sse4*) ;; *) return 0 ;; esac
    for set in SSE42:sse4_2 AVX:avx AVX2:avx2 BMI2:bmi2 FMA:fma F16C:f16c; do
        grep -qx "${set#*:}" <<<"$known" || printf ' %s' "-DGGML_${set%:*}=OFF"
    done
}

find_python() {
    local candidate
    for candidate in ${BYOAI_PYTHON:+"$BYOAI_PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
                fail "$candidate cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install python3-venv"
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and none is in PATH. Debian and Ubuntu: sudo apt-get install python3 python3-venv;" \
        "macOS: brew install python. Or say where one is: BYOAI_PYTHON=/path/to/python3"
}

# lock PYTHON: waits until no other set-up is under way (file 9). The kernel frees the lock with the last process that holds it.
lock() {
    "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
    say "waiting for another set-up to end"
    "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

# install_all KIND PYTHON
install_all() {
    local extra=""
    say "setting up $VENV (the first time takes minutes)"
    rm -f "$VENV"/.set-up-*
    make_venv "$2"
    "$VENV/bin/python" -m pip install --quiet uv || say "uv could not be installed: going on with pip, which is slower"
    install_torch
    take_flags
    install_llama_cpp
    say "installing the other packages"
    if [ "$1" = dev ]; then extra="[dev]"; fi
    install_packages --editable "$ROOT$extra" || fail "the packages could not be installed: see above"
    try_llama_cpp
    printf '%s\n' "${CMAKE_ARGS:-}" "${CFLAGS:-}" "${CXXFLAGS:-}" >"$VENV/.flags"
    fingerprint >"$VENV/.set-up-base"
    if [ "$1" = dev ]; then fingerprint >"$VENV/.set-up-dev"; fi
    say "set up"
}

# make_venv PYTHON: a virtual environment with pip in it; one that is whole stays, one that is broken is made again.
make_venv() {
    if "$VENV/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return; fi
    if [ -e "$VENV" ] && [ "$VENV" != "$ROOT/.venv" ] && [ ! -f "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
        fail "$VENV (BYOAI_VENV) is not a virtual environment, and not empty: name another folder, or remove it"
    fi
    rm -rf "$VENV"
    "$1" -m venv "$VENV" || fail "$1 could not make the virtual environment $VENV: see above"
}

install_packages() {
    if [ -x "$VENV/bin/uv" ]; then
        "$VENV/bin/uv" pip install --python "$VENV/bin/python" "$@"
    else
        "$VENV/bin/python" -m pip install "$@"
    fi
}

requirement() { grep -E "^$1[<>=~!]" "$ROOT/requirements.txt"; }

# torch's own index has a build for each GPU driver, and one for CPUs that is a tenth of the size. uv knows where it is.
# Where it is out of reach, install_all takes the default build, which runs everywhere.
install_torch() {
    local backend=cpu torch
    torch="$(requirement torch)"
    if [ ! -x "$VENV/bin/uv" ] || [ "$(uname -s)" = Darwin ]; then return; fi
    if nvidia-smi -L >/dev/null 2>&1; then backend=auto; fi
    if UV_HTTP_RETRIES=0 UV_HTTP_TIMEOUT=10 install_packages --quiet --dry-run --torch-backend "$backend" "$torch" 2>/dev/null; then
        say "installing torch"
        install_packages --torch-backend "$backend" "$torch" || fail "torch could not be installed: see above"
    else
        say "torch's own index cannot be reached: installing the default build, which is larger (about 2.5 GB with its GPU libraries)"
    fi
}

# install_llama_cpp [CMAKE_ARGUMENTS]: those, behind the person's own.
# llama-cpp-python comes as source. The wheel is kept for this version, platform, processor and all flags; it fits every Python.
install_llama_cpp() {
    local source wheels arguments="${CMAKE_ARGS:-} ${1:-}"
    source="$(requirement llama-cpp-python)"
    wheels="$({ echo "$source $(build_flags) $arguments ${CFLAGS:-} ${CXXFLAGS:-} ${CC:-} ${CXX:-}" && processor; } | cksum | tr ' ' '-')"
    wheels="$CACHE/wheels/llama-cpp-python-$wheels"
    if [ ! -d "$wheels" ]; then compile_llama_cpp "$source" "$wheels" "$arguments"; fi
    # one of the same version, but compiled otherwise, may be there
    install_packages --force-reinstall --no-deps "$wheels"/*.whl || fail "llama-cpp-python could not be installed: see above, or remove $wheels"
}

# compile_llama_cpp REQUIREMENT FOLDER CMAKE_ARGUMENTS
compile_llama_cpp() {
    local log="$CACHE/wheels/llama-cpp-python.log" folder flags
    need_compilers
    flags="$(known_flags)"
    mkdir -p "$CACHE/wheels"
    folder="$(mktemp -d "$CACHE/wheels/.building.XXXXXX")"
    say "compiling llama-cpp-python, once: about 4 minutes on 2 cores (log: $log)"
    # without pip's cache: that would hand out a wheel made for another processor
    if ! CMAKE_ARGS="$3" CFLAGS="${CFLAGS:-} $flags" CXXFLAGS="${CXXFLAGS:-} $flags" "$VENV/bin/python" -m pip wheel --verbose \
        --no-cache-dir --no-deps --wheel-dir "$folder" "$1" 2>&1 | tee "$log" | show_percent; then
        rm -rf "$folder"
        tail -n 20 "$log" >&2
        fail "llama-cpp-python could not be compiled: see $log"
    fi
    mv "$folder" "$2"
}

# The build flags, if both compilers know them: one that does not makes no such instructions either.
known_flags() {
    local flags
    flags="$(build_flags)"
    # shellcheck disable=SC2086 # several words are meant
    if echo "int x;" | ${CC:-cc} -Werror $flags -x c -c -o /dev/null - 2>/dev/null &&
        echo "int x;" | ${CXX:-c++} -Werror $flags -x c++ -c -o /dev/null - 2>/dev/null; then
        echo "$flags"
    fi
}

# Lets a tiny model answer, in a process of its own; if that dies, llama.cpp is compiled once more.
try_llama_cpp() {
    if llama_cpp_runs; then return; fi
    say "llama.cpp does not run here as it was compiled for this processor (see above)." \
        "Compiling it once more, for any processor of this kind: answers will be slower"
    install_llama_cpp "$(portable_flags)"
    llama_cpp_runs || fail "llama.cpp was compiled in two ways, and neither runs on this machine: see above. Try another compiler" \
        "(CC=clang CXX=clang++), or other CMAKE_ARGS"
}

llama_cpp_runs() { "$VENV/bin/python" -P -m fine_tuning.engines.smoke; }

need_compilers() {
    if c++ --version >/dev/null 2>&1 && cc --version >/dev/null 2>&1; then return; fi
    fail "a C and C++ compiler is needed. Debian and Ubuntu: sudo apt-get install build-essential; macOS: xcode-select --install"
}

# Reads what a build prints, and says how far it is: once every ten percent.
show_percent() {
    local line percent next=10
    while IFS= read -r line; do
        if [[ $line =~ \[([0-9]+)/([0-9]+)\] ]]; then
            percent=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2]))
            if [ "$percent" -ge "$next" ]; then
                say "  $percent %"
                next=$((percent - percent % 10 + 10))
            fi
        fi
    done
}

# at_least VERSION MINIMUM: compares dotted numbers.
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$2" ]; }

# The checks that need no running: style, types, and the scripts themselves where shellcheck is installed.
lint() {
    (
        cd "$ROOT"
        "$VENV/bin/ruff" check
        "$VENV/bin/ruff" format --check
        "$VENV/bin/mypy" --cache-dir "$CACHE/mypy" # by content: a clean checkout asks again only about what is new
        if have shellcheck; then shellcheck -x scripts/*.sh .ci/run; fi
    )
}
