"""Reads the `sparse_config` of a raw config."""

from minicpm.config import RawConfig, SparseConfig
from minicpm.config.sparse import sparse_problems

_KEYS = ("kernel_size", "kernel_stride", "init_blocks", "block_size", "window_size", "topk", "dense_len")


def read_sparse(raw: RawConfig) -> SparseConfig | None:
    """The InfLLM-V2 geometry of a config that has one; what makes it unusable is noted by name."""
    values = raw.child("sparse_config")
    if values is None:
        return None
    default = SparseConfig()
    values.ignore("_comment")
    sparse = SparseConfig(
        kernel_size=values.integer("kernel_size", default.kernel_size),
        kernel_stride=values.integer("kernel_stride", default.kernel_stride),
        init_blocks=values.integer("init_blocks", default.init_blocks, least=0),
        block_size=values.integer("block_size", default.block_size),
        window_size=values.integer("window_size", default.window_size, least=0),
        topk=values.integer("topk", default.topk),
        use_nope=values.boolean("use_nope", default.use_nope),
        dense_len=values.integer("dense_len", default.dense_len, least=-1),
    )
    if values.sound(*_KEYS):
        for problem in sparse_problems(sparse):
            values.problem(problem)
    return sparse
