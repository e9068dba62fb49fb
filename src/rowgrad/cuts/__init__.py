"""The cut finder: which lines end gradient on its way, in anybody's model, and what each of them costs.

`places` names lines, `watching` sees the calls of one step, `backward` what came back, `values` which calls reach the
loss, `healing` runs the step again with one place let through, `found` is the answer, `finder` puts them together.
"""
