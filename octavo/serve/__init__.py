"""The HTTP server: OpenAI's endpoints over an AsyncLLM. Each module of endpoints exports `routes(service)`."""
