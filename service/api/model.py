"""The model data published by the worker: the tokenizer and the shape, without torch."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass

from tokenizers import Tokenizer

from service.api.http.problems import NO_MODEL, unavailable
from service.contracts.schemas import WorkerInfo
from service.store import CorruptFile, Store


@dataclass(frozen=True)
class PublishedModel:
    """The model of the store's last worker.  The tokenizer adds neither padding nor a cut."""

    info: WorkerInfo
    tokenizer: Tokenizer


class ModelCache:
    """Loads the published model when it is first needed and again when it has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._model: PublishedModel | None = None

    def get(self) -> PublishedModel:
        """The published model.

        Raises:
            ApiProblem: 503 while no worker has ever published one.
            CorruptFile: a file of it is damaged.
        """
        with self._lock:
            info = self._store.base.info()
            if info is None:
                raise unavailable("no_model", NO_MODEL, retry_after=5)
            stat = self._store.base.published("tokenizer.json").stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if self._model is None or stamp != self._stamp:
                tokenizer = _load(self._published(info))
                self._model, self._stamp = PublishedModel(info, tokenizer), stamp
            elif self._model.info != info:
                self._model = PublishedModel(info, self._model.tokenizer)
            return self._model

    def _published(self, info: WorkerInfo) -> str:
        path = self._store.base.published("tokenizer.json")
        data = path.read_bytes()
        if info.files.get(path.name) not in (None, hashlib.sha256(data).hexdigest()):
            raise CorruptFile(f"{path} is damaged: start the worker, which writes it anew")
        return data.decode()


def _load(text: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
