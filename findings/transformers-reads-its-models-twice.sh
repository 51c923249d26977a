#!/usr/bin/env bash
# transformers 5.24.0: the files that are read to import one class.
#
# `from transformers import LlamaConfig` opens the source of every model that the package has, about 1,700
# files in 557 folders, to learn the names in them, and does so twice: once for the package and once for
# transformers.models.  `create_import_structure_from_path` is cached, but its `lru_cache` keeps 128 results
# and there are more than 500 folders, so the second round finds what it asks for first already dropped.
# Every process that loads a model pays for it again: 0.3 to 0.5 s of processor time for each of the two (one
# core, idle), about half of the 1.7 s of the whole import.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" transformers==5.24.0 2>/dev/null
cat > "$work/count.py" <<'PY'
import sys
from collections import Counter
from pathlib import Path

models = Path(sys.argv[1]) / "transformers" / "models"
opened = Counter()


def count(event, arguments):
    if event == "open" and str(arguments[0]).startswith(str(models)):
        opened[str(arguments[0])] += str(arguments[0]).endswith(".py")


sys.addaudithook(count)
from transformers import LlamaConfig

sources = {name: times for name, times in opened.items() if times}
folders = {Path(name).relative_to(models).parts[0] for name in sources}
print(f"{len(sources)} files of {len(folders)} folders, opened (times: files): {dict(Counter(sources.values()))}")
from transformers.utils.import_utils import create_import_structure_from_path as scan

print(f"cache of folders: {scan.cache_info()}")
twice = sum(times >= 2 for times in sources.values())
small = scan.cache_info().maxsize < len(folders)
sys.exit(0 if len(sources) > 1600 and twice > 0.95 * len(sources) and small else 1)
PY
export HF_HUB_OFFLINE=1 PYTHONPATH="$work/lib"
python3 -c 'from transformers import LlamaConfig' 2>/dev/null  # writes the byte code of what is imported
python3 "$work/count.py" "$work/lib" 2>/dev/null
