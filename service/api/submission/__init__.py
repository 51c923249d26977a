"""From a request for work to a queued job: forms of input, validation, submission."""
