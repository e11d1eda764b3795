"""Published operators as their formulas stand, for comparison: nothing here is fast on purpose.

Each is written from the `definition` beside its stored outputs in tests/golden/fusion, with the
authors' names of parameters, and proven against those outputs by tests/parity/test_references.py.
Without dropout. The question comes before the image, as in the authors' interfaces.
"""
