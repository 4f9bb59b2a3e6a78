"""What somebody looks for: the fields of the form, which are the parameters of the page's address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlencode

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from pipeline.config import ConfigError

Text = Annotated[str, Field(max_length=1000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Query(BaseModel):
    """One search. An empty text or None is no condition; ranges include both ends; pages count from 1."""

    model_config = ConfigDict(frozen=True)

    text: Text = ""
    match: Literal["text", "words"] = "text"  # a part of the text; or each of its words, whole
    recording: Text = ""  # a part of its id
    language: Text = ""
    show: Literal["all", "damaged", "dead"] = "all"
    low: Share | None = None  # of the confidence
    high: Share | None = None
    shortest: Seconds | None = None
    longest: Seconds | None = None
    order: Literal["archive", "unsure", "sure", "longest", "shortest"] = "archive"
    page: int = Field(1, ge=1, le=10**9)

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Query:
        """The query of these parameters; others are ignored. Raises ConfigError, one line, if a value is impossible."""
        try:
            return cls.model_validate({name: value for name, value in parameters.items() if value != ""})
        except pydantic.ValidationError as err:
            first = err.errors(include_url=False)[0]
            raise ConfigError(f"{first['loc'][0]}: {first['msg']}") from None

    def parameters(self, **more: object) -> str:
        """For an address: all that is not the default, and `more`."""
        return urlencode(self.model_copy(update=more).model_dump(exclude_defaults=True))
