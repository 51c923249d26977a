#!/usr/bin/env bash
# llama.cpp's llama-server as a router, 0.5.0-dev as llama_cpp_python 0.3.36 has it.
#
# The router reads its preset file again when it is asked to (GET /models?reload=1).  If a new entry
# has an alias that another one has, that is answered with 500, which is right.  From then on
# every POST /models/load hangs without end, though no other entry is wrong and lists are answered, until a
# later reload succeeds: the reload that failed still counts as running, and a load waits for that.
# No model is needed for it: a load of a file that is not there is answered at once before.
#
# LLAMA_SERVER names a program that is there; without it one is built, which takes 20 minutes on two cores.
set -euo pipefail
work=$(mktemp -d)
server=
stop() {
    if [ -n "$server" ]; then
        kill -9 "$server" # it hangs at its end, too
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT
if [ -z "${LLAMA_SERVER:-}" ]; then
    python3 -m venv "$work/env"
    "$work/env/bin/pip" install --quiet --disable-pip-version-check cmake==4.4.5 ninja==1.13.2
    "$work/env/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
        --dest "$work" llama_cpp_python==0.3.36
    tar xzf "$work/llama_cpp_python-0.3.36.tar.gz" -C "$work"
    "$work/env/bin/cmake" -S "$work/llama_cpp_python-0.3.36/vendor/llama.cpp" -B "$work/build" -G Ninja \
        -DCMAKE_MAKE_PROGRAM="$work/env/bin/ninja" -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF >/dev/null
    "$work/env/bin/cmake" --build "$work/build" --target llama-server >/dev/null
    LLAMA_SERVER="$work/build/bin/llama-server"
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
first='[a]
model = /nowhere/a.gguf
alias = now
'
echo "$first" >"$work/models.ini"
LLAMA_CACHE="$work/cache" "$LLAMA_SERVER" --models-preset "$work/models.ini" --host 127.0.0.1 \
    --port "$port" --offline >"$work/log" 2>&1 &
server=$!
PORT=$port FIRST=$first INI=$work/models.ini python3 - <<'PY'
import json
import os
import time
import urllib.error
import urllib.request

base = f"http://127.0.0.1:{os.environ['PORT']}"


def ask(path, body=None, timeout=8):
    """The status of an answer, and the seconds it took; None where there is none in time."""
    data = None if body is None else json.dumps(body).encode()
    began = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(base + path, data), timeout=timeout) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except TimeoutError:
        status = None
    print(f"{path:18} {status}  after {time.monotonic() - began:.1f} s", flush=True)
    return status


for _ in range(100):
    try:
        urllib.request.urlopen(base + "/health", timeout=5)
        break
    except OSError:
        time.sleep(0.1)
assert ask("/models/load", {"model": "a"}) == 200  # started in the background, where it fails
time.sleep(2)

with open(os.environ["INI"], "a") as file:
    file.write("[b]\nmodel = /nowhere/b.gguf\nalias = now\n")
assert ask("/models?reload=1") == 500  # alias 'now' for model 'b' conflicts with alias of model 'a'
assert ask("/models") == 200
assert ask("/models/load", {"model": "a"}) is None

with open(os.environ["INI"], "w") as file:
    file.write(os.environ["FIRST"])
assert ask("/models?reload=1") == 200
time.sleep(2)  # the load that waited has been done by now
assert ask("/models/load", {"model": "a"}) == 200
PY
