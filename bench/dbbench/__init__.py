"""The cases of db_bench."""
