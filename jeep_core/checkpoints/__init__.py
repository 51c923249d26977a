"""What the files of a model folder must say before anything is loaded from them.

``source`` finds the folder, ``files`` reads its records and the headers of its weights,
``weights`` compares the headers with the configuration, ``tokenizers`` reads the tokenizer,
``endings`` the tokens that end a text.  Whatever is wrong is an ``UnsupportedModel`` of one
sentence, followed by a command where one helps.
"""
