"""Routes of `/v1/files` and `/v1/batches`."""

from __future__ import annotations

from gateway.doors.http.dialect import Route
from gateway.doors.openai.batches.batches import (
    cancel_batch,
    create_batch,
    list_batches,
    quote_batch,
    retrieve_batch,
)
from gateway.doors.openai.batches.files import (
    delete_file,
    file_content,
    list_files,
    retrieve_file,
)
from gateway.doors.openai.batches.upload import upload_file

BATCH_ROUTES = (
    Route(method="POST", path="/v1/files", handle=upload_file),
    Route(method="GET", path="/v1/files", handle=list_files),
    Route(method="GET", path="/v1/files/{file_id}", handle=retrieve_file),
    Route(method="DELETE", path="/v1/files/{file_id}", handle=delete_file),
    Route(method="GET", path="/v1/files/{file_id}/content", handle=file_content),
    Route(method="POST", path="/v1/batches", handle=create_batch),
    Route(method="GET", path="/v1/batches", handle=list_batches),
    Route(method="POST", path="/v1/batches/quote", handle=quote_batch),
    Route(method="GET", path="/v1/batches/{batch_id}", handle=retrieve_batch),
    Route(method="POST", path="/v1/batches/{batch_id}/cancel", handle=cancel_batch),
)
