"""`effir serve`: a retriever behind OpenAI's embeddings API, which follows the champion without dropping a request."""
