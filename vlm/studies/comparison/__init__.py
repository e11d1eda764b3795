"""`vlm compare`: train a list of fusions under the same conditions and report them together.

plan -> build (sizes solved by budget) -> cost -> runs -> results -> significance -> report.
"""
