"""The union is the registry: a reward is added by one file and its name here."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from reward.models.base import Aggregation, ByToken, Reward, Run, Worth
from reward.models.composite import Component, Composite
from reward.models.density_ratio import DensityRatio
from reward.models.http_endpoint import HttpEndpoint
from reward.models.implicit import Implicit
from reward.models.length import Length
from reward.models.lexicon import Lexicon
from reward.models.numeric_answer import NumericAnswer
from reward.models.ood_ratio import OodRatio
from reward.models.regex import Regex
from reward.models.regularized_relevance import RegularizedRelevance
from reward.models.repetition import Repetition

AnyReward = Annotated[
    DensityRatio
    | Implicit
    | OodRatio
    | Lexicon
    | Regex
    | NumericAnswer
    | Length
    | Repetition
    | RegularizedRelevance
    | HttpEndpoint
    | Composite,
    Field(discriminator="type"),
]


def _spec_or_name(given: Any) -> str:
    return "name" if isinstance(given, str) else "spec"


#: a reward, or the id or name of a stored one
AnyNamedReward = Annotated[
    Annotated[AnyReward, Tag("spec")] | Annotated[str, Field(min_length=1, max_length=128), Tag("name")],
    Discriminator(_spec_or_name),
]

_known = {"AnyNamedReward": AnyNamedReward}
Component.model_rebuild(_types_namespace=_known)
Composite.model_rebuild(_types_namespace=_known)

__all__ = [
    "Aggregation", "AnyNamedReward", "AnyReward", "ByToken", "Component", "Composite", "DensityRatio", "HttpEndpoint",
    "Implicit", "Length", "Lexicon", "NumericAnswer", "OodRatio", "Regex", "RegularizedRelevance", "Repetition",
    "Reward", "Run", "Worth",
]  # fmt: skip
