"""The recipe of nano, the small model inside the package: corpus, tokenizer, trainer, exams."""
