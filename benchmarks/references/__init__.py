"""Published operators in plain PyTorch, written for speed: what ours are compared with.

None imports anything of vlm. Those with the authors' names of parameters are proven against the
authors' stored outputs (tests/parity/test_references.py), the others against ours on copied
weights. Each avoids needless work: the question is projected once and broadcast, a
bilinear core is one matrix product, attention takes the faster of PyTorch's two ways. Without
dropout. The question comes before the image, as in the authors' interfaces.
"""
