"""The settings of the service by subject: a class of fields each, which ``Settings`` joins."""
