"""OpenAI's Responses: answers that are kept, continued, run in the background and read again."""
