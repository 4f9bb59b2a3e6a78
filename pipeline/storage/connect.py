"""Makes the clients of object stores: addresses, regions and credentials of s3://, gs:// and az://."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.storage.answers import said_by

if TYPE_CHECKING:  # types that obstore has for checkers only
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3", "gs", "az")
CONNECT_SECONDS = 10
BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
CREDENTIALS_MINUTES = 10  # obstore asks botocore again after this; botocore renews those of a role in time
RETRIES: RetryConfig = {"max_retries": 0}  # `patience` retries and counts

Store = S3Store | GCSStore | AzureStore


class CannotConnect(Exception):
    """Why no request can be sent, in one line: no credentials, no such profile, an impossible name."""


def connect_store(scheme: str, bucket: str, timeout_seconds: int) -> Store:
    """Make a client of one bucket. timeout_seconds: of one request.

    s3: endpoint, region, profile and credentials come from where the AWS tools look for them. gs and az: obstore looks
    for GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY, the identity of the
    machine and more. Raises CannotConnect.
    """
    if not BUCKET_NAME.fullmatch(bucket):
        raise CannotConnect(f"Invalid bucket name {bucket!r}")
    client: ClientConfig = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "timeout": timedelta(seconds=timeout_seconds),
    }
    try:
        if scheme == "s3":
            return _connect_s3(bucket, client)
        return (GCSStore if scheme == "gs" else AzureStore)(bucket, client_options=client, retry_config=RETRIES)
    except BaseError as err:
        raise CannotConnect(" ".join(said_by(err).split())) from None


def _connect_s3(bucket: str, client_options: ClientConfig) -> Store:
    """Botocore says where the bucket is and gives the credentials; obstore sends the requests."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    session = botocore.session.get_session()
    once = Config(connect_timeout=CONNECT_SECONDS, read_timeout=CONNECT_SECONDS, retries={"total_max_attempts": 1})
    try:
        region = session.get_config_variable("region") or "us-east-1"  # compatible stores have no regions
        client = session.create_client("s3", region_name=region, config=once)
        credentials = session.get_credentials()
        if credentials is None:
            raise CannotConnect("Unable to locate credentials")
        named = _region_of(client, bucket)
        if named and named != region:  # AWS has another address for each region
            region, client = named, session.create_client("s3", region_name=named, config=once)
    except BotoCoreError as err:
        raise CannotConnect(" ".join(str(err).split())) from None
    return S3Store(
        bucket,
        config={
            "aws_endpoint_url_s3": client.meta.endpoint_url,
            "region": region,
            "virtual_hosted_style_request": False,
            "disable_bulk_delete": True,  # not every compatible store has it
        },
        client_options=client_options,
        retry_config=RETRIES,
        credential_provider=_Credentials(credentials),
    )


class _Credentials:
    """Gives botocore's credentials to obstore; botocore renews them before they end."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def __call__(self) -> Any:
        keys = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=CREDENTIALS_MINUTES),
        }


def _region_of(client: Any, bucket: str) -> str | None:
    """Return the region that the store names for the bucket, also when it refuses. Most compatible stores name none."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as err:
        answer = err.response
    except BotoCoreError:
        return None  # the first request of obstore gives the error
    headers: dict[str, str] = answer["ResponseMetadata"].get("HTTPHeaders", {})
    return headers.get("x-amz-bucket-region")
