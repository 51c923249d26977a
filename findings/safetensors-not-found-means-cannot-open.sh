#!/usr/bin/env bash
# safetensors 0.8.0: a file that cannot be opened for want of file descriptors is reported as FileNotFoundError.
#
# A small file is written and read.  Then the process uses up its file descriptors: open() says OSError with errno 24
# (EMFILE), as it should, while safe_open() says FileNotFoundError, "No such file or directory", with the path of a file
# that is there, and no errno.  In a server with many sockets this is the moment at which code that takes
# FileNotFoundError for "there is no such checkpoint" downloads it again, or calls a good file lost.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" \
    safetensors==0.8.0 numpy==2.4.6 2>/dev/null
cat > "$work/ask.py" <<'PY'
import os
import resource
import sys

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

path = sys.argv[1]
save_file({"w": numpy.ones(2, numpy.float32)}, path)
with safe_open(path, "numpy") as file:
    print("before:", list(file.keys()))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(open(os.devnull))
except OSError:
    pass
for name, ask in (("open", lambda: open(path)), ("safe_open", lambda: safe_open(path, "numpy"))):
    try:
        ask()
        print(f"{name}: opened")
    except OSError as error:
        print(f"{name}: {type(error).__name__}, errno {error.errno}")
print("is there:", os.path.exists(path))
PY
found=$(PYTHONPATH="$work/lib" python3 "$work/ask.py" "$work/m.safetensors")
echo "$found"
diff <(echo "$found") - <<'SEEN'
before: ['w']
open: OSError, errno 24
safe_open: FileNotFoundError, errno None
is there: True
SEEN
