"""S3 settings for libraries that access object stores themselves, such as deltalake."""

from __future__ import annotations

import os

from clftask.io.storage_errors import translate_storage_errors


def store_options(path: str) -> dict[str, str]:
    """Return endpoint, region and current credentials of S3 by the names of Rust's object_store.

    botocore resolves them, as for all other access; for other paths there are none.

    Raises:
        StorageError: There are no credentials, or the settings of the environment are invalid.
    """
    if not path.startswith("s3://"):
        return {}
    import boto3
    from botocore.exceptions import NoCredentialsError

    with translate_storage_errors(path):
        session = boto3.session.Session()
        region = session.region_name or "us-east-1"
        url = session.client("s3", region_name=region).meta.endpoint_url
        # For a region without an endpoint of its own, botocore returns that of the partition.
        url = url.replace("aws-global", "us-east-1").rstrip("/")
        found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
    keys = found.get_frozen_credentials()
    options = {
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_session_token": keys.token or "",
        "aws_region": region,
        "aws_conditional_put": "etag",
        "aws_endpoint": url,
        "aws_allow_http": "true" if url.startswith("http://") else "",
    }
    kind, _, key = os.environ.get("CLFTASK_S3_SSE", "").partition(":kms:")
    options |= {"aws_server_side_encryption": "aws:kms" if key else kind, "aws_sse_kms_key_id": key}
    return {name: value for name, value in options.items() if value}
