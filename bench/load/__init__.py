"""The machinery of ``ycsb`` and ``dbbench``: one script, carried out by clients, measured.

subject.py   what a benchmark says of itself: its tasks, scripts, contents
plan.py      what is run, decided beforehand
session.py   runs it: pristine stores, copies, one cell after the other
child.py     one cell, in a process of its own;  tape.py  its clock;  walk.py  without a script
loading_child.py  fills a store;  limit.py  less memory than the machine has
verify.py    whether everything is there afterwards
answers.py   what the children measured becomes a cell
results.py   JSON, CSV and .hdr files
tables.py    what is printed
"""
