"""The thesis's tables with our figures beside its own; ``training.tables`` is the command.

``results`` reads what runs left behind, ``build`` puts it into tables;
``training.experiments.published`` holds the thesis's figures and ``training.reporting.tables``
writes Markdown and LaTeX.
"""
