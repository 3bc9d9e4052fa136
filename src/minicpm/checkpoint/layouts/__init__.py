"""Checkpoints whose matrices are held in codes already: which tensors make one, and what they mean.

`recognition` finds them from names and shapes alone, without torch. `gptq`, `awq`, `marlin`, `mlx` and `own`
go between the tensors of a file and a `QuantTensor`, without a float on the way where the grid allows.
"""
