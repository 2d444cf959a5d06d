"""effir turns a large language model into a smaller, faster dense retriever."""

__version__ = "0.1.0"
