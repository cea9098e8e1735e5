"""The thesis's tables: ``results`` finds our figures, ``build`` sets them beside its own."""
