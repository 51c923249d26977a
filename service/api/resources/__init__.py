"""The resources of the api, one module each."""
