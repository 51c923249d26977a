"""Parts that plots and reports share; all but `colours` need the ``report`` extra."""
