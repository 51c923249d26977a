"""A follower without a share of the store's disk: what it needs comes from the api, over HTTP.

What belongs here: ``link.py`` says how it stands with the api, ``source.py`` asks it for manifests
and tensors, ``mirror.py`` follows head and the published model, ``waiting.py`` ends
waits for the api with the follower, ``elsewhere.py`` puts them together.  Where the files lie is
`service.store.fetched`'s business.
"""
