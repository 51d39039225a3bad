"""The YCSB core workloads."""
