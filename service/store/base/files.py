"""The files of the base model: what the worker publishes, and what is computed once and kept.

``model/`` holds what the worker publishes for the api: configuration, tokenizer, ``info.json``.
``base/`` holds prefixes, second moments, probes and trained networks, whose formats are the
library's.  ``training/`` holds files that networks can be trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from jeep_core.storage.prefixes import prefixes_file, read_prefixes
from service.contracts.schemas import WorkerInfo
from service.store.files import encode, inside, read, replace

FOLDER = "base"
"""The folder of a store that holds what is computed once for its base model."""
CHAT_TEMPLATE = "chat_template.json"
"""The published chat template (``ChatTemplate.to_json``); listed in ``files`` if there is one."""


class BaseFiles:
    """The one owner of the base model's files (``store.base``).

    Needs only the store's folder, so a command can ask for a path without opening the store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def publish(self, info: WorkerInfo, files: Mapping[str, bytes]) -> None:
        """Publish ``files`` (tokenizer, configuration) and then ``info``, for the api."""
        for name, data in files.items():
            replace(self.published(name), data)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        replace(self._info_file, encode(info.model_copy(update={"files": hashes})))

    def info(self) -> WorkerInfo | None:
        """The data last published by a worker, None if there are none."""
        return read(self._info_file, WorkerInfo)

    def published(self, name: str) -> Path:
        """Path of a published file, which need not exist.

        ValueError for a name that leads out of the folder.
        """
        return inside(self._root / "model", name)

    @property
    def _info_file(self) -> Path:
        return self.published("info.json")

    @property
    def folder(self) -> Path:
        """The folder of all that is computed once for the base model."""
        return self._root / FOLDER

    @property
    def prefixes_file(self) -> Path:
        """The file of the sampled prefixes."""
        return self.folder / "prefixes.json"

    def prefixes(self) -> list[str]:
        """The prefixes that were kept; none if there is no file, or a damaged one (logged)."""
        return read_prefixes(self.prefixes_file)

    def keep_prefixes(self, prefixes: Sequence[str]) -> None:
        """Keep the prefixes that were sampled, instead of those kept before."""
        replace(self.prefixes_file, prefixes_file(prefixes))

    @property
    def moments_folder(self) -> Path:
        """The folder of second moments and what was factored from them."""
        return self.folder / "moments"

    @property
    def networks_folder(self) -> Path:
        """The folder of all trained networks, by model hash."""
        return self.folder / "hypernetworks"

    @property
    def probes_folder(self) -> Path:
        """The folder of probes that edits without hyper-parameters go by, and of anchored norms."""
        return self.folder / "probes"

    @property
    def training_folder(self) -> Path:
        """The folder of the files that networks can be trained on."""
        return self._root / "training"
