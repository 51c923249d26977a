"""The model data published by the worker: the tokenizer and the shape, without torch."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass

from tokenizers import Tokenizer

from jeep_core.text.chat import ChatTemplate
from service.api.http.problems import NO_MODEL, unavailable
from service.contracts.schemas import WorkerInfo
from service.store import CorruptFile, Store
from service.store.base.files import CHAT_TEMPLATE
from service.store.files import Stamp, file_stamp


@dataclass(frozen=True)
class PublishedModel:
    """The model of the store's last worker.  The tokenizer adds neither padding nor a cut.

    ``chat`` is the chat template, None for a model that has none.
    """

    info: WorkerInfo
    tokenizer: Tokenizer
    chat: ChatTemplate | None = None


class ModelCache:
    """Loads the published model when it is first needed and again when it has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._stamp: Stamp = None
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
            stamp = file_stamp(self._store.base.published("tokenizer.json"))
            if self._model is None or stamp != self._stamp:
                tokenizer = _load(self._published(info, "tokenizer.json"))
                self._model = PublishedModel(info, tokenizer, self._chat(info))
                self._stamp = stamp
            elif self._model.info != info:
                self._model = PublishedModel(info, self._model.tokenizer, self._chat(info))
            return self._model

    def _chat(self, info: WorkerInfo) -> ChatTemplate | None:
        if CHAT_TEMPLATE not in info.files:
            return None
        return ChatTemplate.from_json(self._published(info, CHAT_TEMPLATE))

    def _published(self, info: WorkerInfo, name: str) -> str:
        path = self._store.base.published(name)
        data = path.read_bytes()
        if info.files.get(path.name) not in (None, hashlib.sha256(data).hexdigest()):
            raise CorruptFile(f"{path} is damaged: start the worker, which writes it again")
        return data.decode()


def _load(text: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
