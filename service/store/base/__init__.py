"""The store's files of its base model: `files` owns the files, the others answer from them."""
