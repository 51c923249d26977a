"""What the store keeps of its base model: `files` owns the files, the others answer from them."""
