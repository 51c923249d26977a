"""From a GGUF file, the format of llama.cpp, to a model folder; needs no torch.

``reader`` reads the header, ``dialects`` says what each architecture calls its tensors and how
it rearranges them, ``configs`` and ``tokenizers`` write the records of a folder, ``weights``
writes the tensors, ``convert`` puts a whole folder together.
"""
