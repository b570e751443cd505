"""Every route of every listener, and who may call it. A route that does not stand here fails the tests (R29, R32)."""

from __future__ import annotations

# Anybody, even where keys are set: these say whether the server takes requests, and nothing else.
PUBLIC = """
GET /health
GET /ping
POST /ping
"""

# Whoever has a key, where keys are set.
WITH_KEY = """
POST /v1/completions
POST /v1/chat/completions
POST /v1/chat/completions/batch
POST /v1/responses
POST /v1/responses/input_tokens
GET /v1/responses/{response_id}
DELETE /v1/responses/{response_id}
POST /v1/responses/{response_id}/cancel
GET /v1/responses/{response_id}/input_items
POST /v1/messages
POST /v1/messages/count_tokens
POST /v1/files
GET /v1/files
GET /v1/files/{file_id}
GET /v1/files/{file_id}/content
DELETE /v1/files/{file_id}
POST /v1/batches
GET /v1/batches
GET /v1/batches/{batch_id}
POST /v1/batches/{batch_id}/cancel
POST /v1/embeddings
POST /pooling
POST /classify
POST /score
POST /v1/score
POST /rerank
POST /v1/rerank
POST /v2/rerank
GET /v1/models
GET /v1/models/{model:path}
POST /tokenize
POST /detokenize
GET /v1/requests
GET /v1/requests/{id}
GET /v1/requests/{id}/timeline
POST /v1/requests/{id}/control
GET /load
GET /version
GET /metrics
GET /openapi.json
GET /docs
"""

# On the admin listener only.
ADMIN = """
GET /health
GET /metrics
GET /admin/usage
POST /admin/reload
POST /admin/cache/reset
GET /admin/log-level
PUT /admin/log-level
POST /admin/drain
"""


def listed(text: str) -> set[tuple[str, str]]:
    """The methods and paths of a list above."""
    return {(method, path) for method, path in (line.split() for line in text.strip().splitlines())}
