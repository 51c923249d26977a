"""A version as a GGUF file for llama.cpp, and the proof of what the file still answers.

``convert`` writes the file, with ``repack`` and ``quantise`` from the GGUF that the model came
from, with llama.cpp's programs (``tools``) from a model folder; ``server`` asks the file in
llama.cpp, ``proof`` compares its answers with those of the version.
"""
