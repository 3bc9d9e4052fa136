"""How a retrieval model is told what is a query; documents are given as they are."""


def query_text(text: str, instruction: str | None = None) -> str:
    """The query as MiniCPM-Embedding and MiniCPM-Reranker know it, with what is to be found if that is said."""
    return f"Query: {text}" if instruction is None else f"Instruction: {instruction} Query: {text}"
