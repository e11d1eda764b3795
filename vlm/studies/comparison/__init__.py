"""`vlm compare`: a list of fusions trained alike and reported side by side.

plan -> build (sizes solved by budget) -> cost -> runs -> results -> significance -> report.
"""
