"""Write the second moments of the bundled models: ``python -m tools.atlas.moments``.

Those of the layers that a shipped preset or the probe's proposal writes, over the beginning of the
bundled text, as an edit would take them.
"""

from __future__ import annotations

from jeep_core import atlas
from jeep_core.models.loading import load, texts_of, texts_sha256
from jeep_core.moments.cache import Moments
from jeep_core.moments.shipped import write_shipped

LAYERS = {"atlas-gptj": (1, 2, 5, 6, 7), "atlas-llama": (0, 1, 2, 7)}


def main() -> None:
    """Take and write all of them."""
    texts = texts_of(atlas.CORPUS)
    corpus = texts_sha256(texts)
    for name, layers in LAYERS.items():
        base = load(name, "cpu", "float32")
        moments = Moments(base, texts, shipped=False)
        for layer, moment in moments.sums(layers).moments().items():
            path = atlas.MODELS[name] / "moments" / f"layer-{layer}.safetensors"
            write_shipped(path, moment, base.model_hash, corpus, moments.samples)
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
