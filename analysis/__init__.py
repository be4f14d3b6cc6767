"""Records of a study read back, statistics, tables, figures and the report."""
