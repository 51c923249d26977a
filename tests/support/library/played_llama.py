"""Programs that stand for llama.cpp's: they speak as those do and do as much as a test needs."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEAD = f"#!{sys.executable}\n"

QUANTIZER = """
import json, pathlib, re, sys
import numpy as np
import gguf
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

# K-quants go beyond the package: a row of Q4_K is bytes that depend on its numbers
options, rest, arguments = [], [], iter(sys.argv[1:])
for one in arguments:
    if one == "--tensor-type":
        pattern, _, kind = next(arguments).rpartition("=")
        options.append((pattern, Kind[kind.upper()]))
    elif not one.startswith("--"):
        rest.append(one)
source, out, wanted, _ = rest
pathlib.Path(__file__).with_name("quantizer.json").write_text(json.dumps(sys.argv[1:]))
reader = gguf.GGUFReader(source)
writer = gguf.GGUFWriter(out, "llama")
for field in reader.fields.values():
    if not field.name.startswith("GGUF.") and field.name != "general.architecture":
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), field.types[0], inner)
for tensor in reader.tensors:
    kind = Kind.Q8_0 if wanted == "Q4_K_M" else Kind[wanted]
    kind = next((k for p, k in options if re.search(p, tensor.name)), kind)
    numbers = dequantize(tensor.data, tensor.tensor_type)
    if numbers.ndim == 1 or numbers.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = Kind.F32
    if kind is Kind.Q4_K:
        size = numbers.shape[-1] // 256 * 144
        data = np.full((len(numbers), size), int(abs(numbers).sum()) % 251, np.uint8)
    else:
        data = quantize(numbers.astype(np.float32), kind)
    writer.add_tensor(tensor.name, data, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""

SERVER = """
import http.server, json, os, pathlib, sys

place = pathlib.Path(__file__).parent
script = json.loads((place / "answers.json").read_text())
port = int(sys.argv[sys.argv.index("--port") + 1])
(place / "server.json").write_text(json.dumps(sys.argv[1:]))
if script.get("dies"):
    print("error loading model: " + script["dies"], flush=True)
    sys.exit(1)
looked, bearers = [0], set()


def note():
    seen = {
        "key": os.environ.get("LLAMA_API_KEY", ""),
        "bearers": sorted(bearers),
        "settings": [name for name in os.environ if name.startswith("JEEP_")],
    }
    (place / "environment.json").write_text(json.dumps(seen))


class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, status, record):
        body = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        looked[0] += 1
        loading = looked[0] <= script.get("loading", 1)
        self.reply(503 if loading else 200, {"status": "loading" if loading else "ok"})

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        asked = json.loads(self.rfile.read(length))
        bearers.add(self.headers["Authorization"])
        note()
        with (place / "asked.jsonl").open("a") as file:
            file.write(json.dumps([self.path, asked]) + "\\n")
        if script.get("fails"):
            self.reply(500, {"error": script["fails"]})
        elif self.path == "/tokenize":
            ids = script["tokens"].get(asked["content"], [])
            self.reply(200, {"tokens": ids})
        else:
            key = " ".join(map(str, asked["prompt"]))
            ids, text = script["answers"].get(key, [[0], "?"])
            self.reply(200, {"tokens": ids[: asked["n_predict"]], "content": text})

    def log_message(self, *args):
        pass


http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

CONVERTER = """
import pathlib, shutil, sys

folder, out = sys.argv[1], sys.argv[sys.argv.index("--outfile") + 1]
place = pathlib.Path(__file__).parent
if not (place / "converted.gguf").exists():
    print("INFO:hf-to-gguf:Loading model")
    print("NotImplementedError: BPE pre-tokenizer was not recognized")
    sys.exit(1)
shutil.copy(place / "converted.gguf", out)
"""


def program(folder: Path, name: str, text: str) -> Path:
    """A Python program in ``folder``, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(_HEAD + text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def quantizer(folder: Path) -> None:
    """``llama-quantize``: other types by the package gguf, Q4_K as bytes that only look so."""
    program(folder / "build" / "bin", "llama-quantize", QUANTIZER)


def converter(folder: Path, converted: Path | None = None) -> None:
    """The converter: the result is a copy of ``converted``; None: it ends badly."""
    program(folder, "convert_hf_to_gguf.py", CONVERTER)
    if converted is not None:
        (folder / "converted.gguf").write_bytes(converted.read_bytes())


def server(
    folder: Path,
    answers: Mapping[Sequence[int], tuple[Sequence[int], str]],
    tokens: Mapping[str, Sequence[int]] | None = None,
    **more: Any,
) -> None:
    """``llama-server``: ``answers`` (ids and text) by the tokens of a prompt.

    ``tokens``: how it reads texts.  ``loading``: how often it is not ready; ``dies``, ``fails``:
    what it says when it does.
    """
    place = folder / "build" / "bin"
    program(place, "llama-server", SERVER)
    script = {
        "answers": {" ".join(map(str, ids)): list(said) for ids, said in answers.items()},
        "tokens": dict(tokens or {}),
        **more,
    }
    (place / "answers.json").write_text(json.dumps(script), encoding="utf-8")


def asked(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """What the server was asked: paths and bodies, in order."""
    lines = (folder / "build" / "bin" / "asked.jsonl").read_text("utf-8").splitlines()
    return [(path, body) for path, body in map(json.loads, lines)]
