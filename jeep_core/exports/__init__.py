"""Versions as files that other programs load: adapters for PEFT, whole checkpoints.

``factors`` turns updates of a matrix into two factors of the smallest rank, ``adapter`` writes
them as a LoRA of PEFT, ``checkpoint`` writes a whole model folder (with ``tensor_files``, a
tensor at a time), ``card`` says what a folder is (its base
model by the name in ``bases``), ``folders`` makes it whole or absent and keeps
the hashes of its files.  ``gguf/`` writes the file of llama.cpp and asks it there.  What asks a
running service belongs elsewhere.
"""
