"""How a retrieval model is told what is a query; documents are given as they are."""


def query_text(text: str, instruction: str | None = None) -> str:
    """The query as MiniCPM-Embedding and MiniCPM-Reranker know it; the instruction says what is sought."""
    return f"Query: {text}" if instruction is None else f"Instruction: {instruction} Query: {text}"
