"""The settings of `jobs.browse`."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import OutputConfig, Section, StorageConfig


class ServerConfig(Section):
    """Where the page is served. Whoever has its address with the token sees the transcripts."""

    host: str = Field("127.0.0.1", min_length=1, description="IPv4 address to listen on; 0.0.0.0: all of this machine")
    port: int = Field(8890, ge=0, le=65_535, description="0: one that is free")


class BrowseConfig(Section):
    """All settings of `jobs.browse`."""

    output: OutputConfig
    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
