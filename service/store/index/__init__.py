"""An index of versions, facts and jobs in SQLite, and running sums of long lines.

Here belongs what finds records without reading all of them, and what spares an edit the updates of
all versions before it.  All of it can be made again.  The files of the store stay the truth:
whoever asks reads them where the index cannot answer.
"""
