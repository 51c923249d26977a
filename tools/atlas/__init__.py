"""How the bundled models, their suites, texts and second moments were made."""
