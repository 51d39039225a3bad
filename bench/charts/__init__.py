"""The charts: each module draws one kind, as SVG and PNG, from results as they are in files."""
