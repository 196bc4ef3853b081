"""Untrusted files: checkpoints, archives and images are read here, and nothing that they name is ever executed.

A checkpoint is a pickle in a zip archive, and a pickle is a program. :mod:`engine.intake.pickles` reads the program
without running it: it has no way to import or to call. It works in a process of its own with limited memory and time
(:mod:`engine.intake.reader`), which hands over safetensors and a description; only those reach the engine.
"""
