"""Writing versions for other programs: a module for each format, with its ``WRITER``.

``writing`` has what they share, ``asking`` asks the edited facts again.  The registry of formats is
`service.contracts.exports`; the files themselves are made by `jeep_core.exports`.
"""
