"""Checks of the files of a model folder, before anything is loaded from them.

``source`` finds the folder, ``files`` reads its records and the headers of its weights,
``weights`` compares the headers with the configuration, ``tokenizers`` reads the tokenizer,
``end_tokens`` the tokens that end a text.  Every problem is an ``UnsupportedModel`` of one
sentence, followed by a command where one helps.
"""
