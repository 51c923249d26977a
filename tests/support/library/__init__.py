"""Small models, tokenizers, suites and plain reference computations."""
