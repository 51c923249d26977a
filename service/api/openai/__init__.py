"""OpenAI's interface below ``/v1``: a sub-application with errors of its own shape.

Requests that others' programs send unchanged belong here, and the tokenizer's routes that go with
them.  Nothing here computes: prompts become tokens, the worker answers, tokens become texts.
"""
