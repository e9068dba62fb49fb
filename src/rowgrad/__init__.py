"""What `detach()` does to training, one image row at a time.

The path of a batch is the order of the modules: `data` -> `scenario` (`rows`, `operations`, `randomness`) ->
`networks` -> `module` -> `gradients` -> `callbacks`; `run` puts them together. Importing this package imports nothing
heavy.
"""
