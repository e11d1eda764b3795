"""Contract checks for parts of your own: they hold in `vlm` for every public class.

    from vlm.testing import check_fusion

    def test_my_fusion():
        check_fusion(MyFusion(image_dim=13, text_dim=11, out_dim=17))

A check passes silently, or raises an `AssertionError` that names the promise, the input and the
size of the error. It works on copies on the CPU: the part, its training mode and the random
numbers outside are left as they were. Torch and einops are enough.
"""

from vlm.testing.encoders import check_image_encoder, check_text_encoder
from vlm.testing.fusions import check_fusion, check_merge
from vlm.testing.heads import check_head

__all__ = ["check_fusion", "check_head", "check_image_encoder", "check_merge", "check_text_encoder"]
