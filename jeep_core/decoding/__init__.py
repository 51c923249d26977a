"""Generation: sampling, batches that rows join and leave, text streams, scoring of answers."""
