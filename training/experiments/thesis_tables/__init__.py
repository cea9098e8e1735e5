"""The thesis's tables with our figures beside its own; ``training.tables`` is the command.

``results`` reads what runs left behind, ``build`` puts it into tables;
``training.experiments.published`` holds the thesis's figures and ``mask2kan.outputs.tables`` writes
Markdown, LaTeX and HTML.
"""
