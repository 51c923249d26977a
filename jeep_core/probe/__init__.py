"""The contrast probe: where a model recalls an answer, and which layers an edit should write.

Paper §4.1 and appendix A.  ``prompts.py`` turns facts into prompts, ``states.py`` and
``readings.py`` read every state through the head, ``word_sets.py`` follows sets of words,
``patching.py`` moves states between prompts, ``proposal.py`` turns the evidence into regions,
``run.py`` does all of it, and ``plots.py`` (which needs the ``report`` extra) draws it.
"""
