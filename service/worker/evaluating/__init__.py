"""The parts of an evaluation job: its cases, what is written freely, and a judge of that."""
